//! Versioned JSON records in one redb file: tables of string keys.
//!
//! ```text
//! <file>.redb ─┬─ table "images"  ── "sha256:…" ─▶ {"version":1, …}
//!              └─ table "…"       ── key        ─▶ JSON object
//! ```
//!
//! Every value carries its own version field, which its reader checks; this module only moves JSON.
//!
//! # Invariants
//! - A write returns after a two-phase commit: no crash takes it back, none leaves half of it.
//! - The file appears complete: it is made under a temporary name and renamed, because a crash
//!   inside the very first creation would leave a file that cannot be opened.
//! - An I/O error poisons redb's handle; the next call opens the file anew.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Largest record in bytes of JSON; larger ones are refused when written.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// redb's page cache; the databases here are a few hundred kilobytes.
const CACHE_BYTES: usize = 8 << 20;

/// One open database. Calls block on the disk: use it from a blocking thread.
pub struct Records {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Changes that take effect together; see [`Records::transaction`].
pub struct Transaction<'a> {
    path: &'a Path,
    inner: &'a redb::WriteTransaction,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Records {
    /// Opens the database at `path`, making it (mode 0600) when absent.
    ///
    /// # Errors
    ///
    /// [`Error::Records`]: another process has it open, it is damaged, or the disk fails.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let database = open_or_make(path).map_err(|source| failed(path, "open", source))?;
        Ok(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
        })
    }

    /// One record, or `None`.
    ///
    /// # Errors
    ///
    /// [`Error::Records`] when reading fails, [`Error::Record`] when it is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, table: &str, key: &str) -> Result<Option<T>, Error> {
        let bytes = self.with(|database| {
            let transaction = database.begin_read()?;
            match transaction.open_table(definition(table)) {
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
                Ok(rows) => Ok(rows.get(key)?.map(|row| row.value().to_vec())),
            }
        })?;
        bytes.map(|bytes| decode(table, key, &bytes)).transpose()
    }

    /// All records of a table in the order of their keys.
    ///
    /// # Errors
    ///
    /// As [`Records::get`].
    pub fn list<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<(String, T)>, Error> {
        let rows = self.with(|database| {
            let transaction = database.begin_read()?;
            match transaction.open_table(definition(table)) {
                Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
                Err(error) => Err(error.into()),
                Ok(rows) => collect(&rows),
            }
        })?;
        decode_all(table, rows)
    }

    /// Stores a record durably, replacing an older one.
    ///
    /// # Errors
    ///
    /// As [`Records::transaction`].
    pub fn put<T: Serialize>(&self, table: &str, key: &str, value: &T) -> Result<(), Error> {
        self.transaction(|transaction| transaction.put(table, key, value))
    }

    /// Removes a record durably; tells whether it was there.
    ///
    /// # Errors
    ///
    /// As [`Records::transaction`].
    pub fn remove(&self, table: &str, key: &str) -> Result<bool, Error> {
        self.transaction(|transaction| transaction.remove(table, key))
    }

    /// Runs `work` and commits its changes durably together, or none of them when it fails.
    ///
    /// Transactions run one at a time. `work` must not use this `Records` otherwise.
    ///
    /// # Errors
    ///
    /// What `work` returns; [`Error::Records`] when the database or the disk fails, in which case
    /// the same call may be tried again; [`Error::Record`] for a record that is too large.
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = self.path.as_path();
        self.with(|database| {
            let mut inner = database.begin_write()?;
            inner.set_two_phase_commit(true);
            match work(&Transaction {
                path,
                inner: &inner,
            }) {
                Err(error) => {
                    inner.abort()?;
                    Ok(Err(error))
                }
                Ok(value) => {
                    inner.commit()?;
                    Ok(Ok(value))
                }
            }
        })?
    }

    /// Runs `work` on the open database, opening it first where an earlier failure closed it.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Error> {
        let attempt = |database: &Database| {
            work(database).map_err(|error| (poisons(&error), failed(&self.path, "use", error)))
        };
        let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = match open.as_ref() {
            Some(database) => {
                let result = attempt(database);
                drop(open);
                result
            }
            None => {
                drop(open);
                let mut slot = self
                    .database
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                if slot.is_none() {
                    let opened = open_or_make(&self.path);
                    *slot = Some(opened.map_err(|error| failed(&self.path, "reopen", error))?);
                }
                slot.as_ref().map_or_else(
                    || Err((false, failed(&self.path, "reopen", redb::Error::PreviousIo))),
                    attempt,
                )
            }
        };
        result.map_err(|(poisoned, error)| {
            if poisoned {
                // Dropping the handle is what lets the next call open the file again.
                *self
                    .database
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = None;
            }
            error
        })
    }
}

impl Transaction<'_> {
    /// One record as this transaction sees it.
    ///
    /// # Errors
    ///
    /// As [`Records::get`].
    pub fn get<T: DeserializeOwned>(&self, table: &str, key: &str) -> Result<Option<T>, Error> {
        let bytes = self.rows(table, |rows| {
            Ok(rows.get(key)?.map(|row| row.value().to_vec()))
        })?;
        bytes.map(|bytes| decode(table, key, &bytes)).transpose()
    }

    /// All records of a table as this transaction sees them.
    ///
    /// # Errors
    ///
    /// As [`Records::get`].
    pub fn list<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<(String, T)>, Error> {
        let rows = self.rows(table, |rows| collect(rows))?;
        decode_all(table, rows)
    }

    /// Stores a record when the transaction commits.
    ///
    /// # Errors
    ///
    /// [`Error::Record`] when it cannot be encoded or exceeds [`MAX_RECORD_BYTES`];
    /// [`Error::Records`] when the database fails.
    pub fn put<T: Serialize>(&self, table: &str, key: &str, value: &T) -> Result<(), Error> {
        let bytes = encode(table, key, value)?;
        self.rows(table, |rows| {
            Ok(rows.insert(key, bytes.as_slice()).map(drop)?)
        })
    }

    /// Removes a record when the transaction commits; tells whether it was there.
    ///
    /// # Errors
    ///
    /// [`Error::Records`] when the database fails.
    pub fn remove(&self, table: &str, key: &str) -> Result<bool, Error> {
        self.rows(table, |rows| Ok(rows.remove(key)?.is_some()))
    }

    fn rows<T>(
        &self,
        table: &str,
        work: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let opened = self
            .inner
            .open_table(definition(table))
            .map_err(redb::Error::from);
        opened
            .and_then(|mut rows| work(&mut rows))
            .map_err(|error| failed(self.path, "use", error))
    }
}

fn definition(table: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(table)
}

fn collect(
    rows: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let mut all = Vec::new();
    for row in rows.iter()? {
        let (key, value) = row?;
        all.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok(all)
}

fn encode<T: Serialize>(table: &str, key: &str, value: &T) -> Result<Vec<u8>, Error> {
    let problem = |problem: String| Error::Record {
        table: table.to_owned(),
        key: key.to_owned(),
        problem,
    };
    let bytes = serde_json::to_vec(value).map_err(|error| problem(error.to_string()))?;
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(problem(format!(
            "{} bytes exceed {MAX_RECORD_BYTES}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(table: &str, key: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Record {
        table: table.to_owned(),
        key: key.to_owned(),
        problem: error.to_string(),
    })
}

fn decode_all<T: DeserializeOwned>(
    table: &str,
    rows: Vec<(String, Vec<u8>)>,
) -> Result<Vec<(String, T)>, Error> {
    rows.into_iter()
        .map(|(key, bytes)| decode(table, &key, &bytes).map(|value| (key, value)))
        .collect()
}

fn failed(path: &Path, action: &'static str, source: redb::Error) -> Error {
    Error::Records {
        action,
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// Whether redb refuses everything on this handle from now on.
fn poisons(error: &redb::Error) -> bool {
    matches!(
        error,
        redb::Error::Io(_)
            | redb::Error::PreviousIo
            | redb::Error::LockPoisoned(_)
            | redb::Error::DatabaseClosed
            | redb::Error::Corrupted(_)
    )
}

fn open_or_make(path: &Path) -> Result<Database, redb::Error> {
    if !path.try_exists().map_err(storage)? {
        make(path)?;
    }
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    Ok(builder.open(path)?)
}

fn make(path: &Path) -> Result<(), redb::Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(storage(error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(storage)?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    drop(builder.create(&temporary)?);
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let (cwd, parent) = (rustix::fs::CWD, path.parent().unwrap_or(Path::new("/")));
    rustix::fs::renameat_with(cwd, &temporary, cwd, path, flags)
        .map_err(|error| storage(error.into()))?;
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(storage)
}

fn storage(error: io::Error) -> redb::Error {
    StorageError::Io(error).into()
}

#[cfg(test)]
mod tests;
