//! Records of sandboxes and containers on disk (`<root>/state.redb`).
//!
//! Values are the JSON of [`crate::record`], one table for each kind, keyed by id. Every write is
//! a durable two-phase commit: when it returns, a crash cannot take it back.

use std::path::Path;
use std::sync::Arc;

use images::records::Records;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::blocking;
use crate::error::Error;
use crate::model::{ContainerId, SandboxId};
use crate::record::{ContainerRecord, SandboxRecord, VERSION};

const SANDBOXES: &str = "sandboxes";
const CONTAINERS: &str = "containers";

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    records: Arc<Records>,
}

impl Store {
    /// Opens or makes the database.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] when it cannot be opened, for instance because another thawd has it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let records = Records::open(path)
            .map_err(|error| Error::failed(format!("open the store {}", path.display()), error))?;
        Ok(Self {
            records: Arc::new(records),
        })
    }

    pub(crate) async fn put_sandbox(&self, record: &SandboxRecord) -> Result<(), Error> {
        self.put(SANDBOXES, record.id.as_str().to_owned(), record)
            .await
    }

    pub(crate) async fn put_container(&self, record: &ContainerRecord) -> Result<(), Error> {
        self.put(CONTAINERS, record.id.as_str().to_owned(), record)
            .await
    }

    pub(crate) async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        self.remove(SANDBOXES, id.as_str().to_owned()).await
    }

    pub(crate) async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.remove(CONTAINERS, id.as_str().to_owned()).await
    }

    /// All sandboxes; the ids of records that cannot be read come second.
    pub(crate) async fn sandboxes(&self) -> Result<(Vec<SandboxRecord>, Vec<String>), Error> {
        self.list(SANDBOXES, |record: &SandboxRecord| record.version)
            .await
    }

    /// All containers; the ids of records that cannot be read come second.
    pub(crate) async fn containers(&self) -> Result<(Vec<ContainerRecord>, Vec<String>), Error> {
        self.list(CONTAINERS, |record: &ContainerRecord| record.version)
            .await
    }

    async fn put<T: Serialize>(
        &self,
        table: &'static str,
        key: String,
        value: &T,
    ) -> Result<(), Error> {
        let value = serde_json::to_value(value)
            .map_err(|error| Error::failed(format!("encode the record of {key}"), error))?;
        let records = Arc::clone(&self.records);
        blocking(move || {
            records
                .put(table, &key, &value)
                .map_err(|error| Error::failed(format!("store the record of {key}"), error))
        })
        .await
    }

    async fn remove(&self, table: &'static str, key: String) -> Result<(), Error> {
        let records = Arc::clone(&self.records);
        blocking(move || {
            records
                .remove(table, &key)
                .map(drop)
                .map_err(|error| Error::failed(format!("remove the record of {key}"), error))
        })
        .await
    }

    async fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        table: &'static str,
        version: fn(&T) -> u32,
    ) -> Result<(Vec<T>, Vec<String>), Error> {
        let records = Arc::clone(&self.records);
        blocking(move || {
            let all: Vec<(String, serde_json::Value)> = records
                .list(table)
                .map_err(|error| Error::failed("read the store", error))?;
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            for (key, value) in all {
                match serde_json::from_value::<T>(value) {
                    Ok(record) if version(&record) == VERSION => good.push(record),
                    _ => bad.push(key),
                }
            }
            Ok((good, bad))
        })
        .await
    }
}
