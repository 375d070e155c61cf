//! Clients outside the pod, whose connections a checkpoint must not cut.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::wait;

/// How a server counts what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `TEXT` is answered with `N TEXT`.
    Lines,
    /// Redis: `INCR hits` is answered with `:N`.
    Redis,
}

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    protocol: Protocol,
}

impl Client {
    /// Connects, waiting for the server to come up.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn connect(ip: &str, port: u16, protocol: Protocol) -> Result<Self> {
        let stream = wait::until("the server to listen", wait::PATIENCE, || {
            Ok(TcpStream::connect((ip, port)).ok())
        })?;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            protocol,
        })
    }

    fn line(&mut self, question: &str) -> Result<String> {
        self.stream
            .get_mut()
            .write_all(question.as_bytes())
            .context("sending")?;
        let mut answer = String::new();
        let length = self.stream.read_line(&mut answer).context("receiving")?;
        ensure!(length > 0, "the connection was closed");
        Ok(answer.trim_end().to_owned())
    }

    /// Asks once and returns the server's count.
    ///
    /// # Errors
    /// When the connection is cut or the answer is wrong.
    pub(crate) fn ask(&mut self, text: &str) -> Result<u64> {
        match self.protocol {
            Protocol::Lines => {
                let answer = self.line(&format!("{text}\n"))?;
                let (number, echo) = answer.split_once(' ').context("answer")?;
                ensure!(echo == text, "the server answered {answer:?} to {text:?}");
                Ok(number.parse()?)
            }
            Protocol::Redis => {
                let answer = self.line("INCR hits\r\n")?;
                let number = answer.strip_prefix(':').with_context(|| answer.clone())?;
                Ok(number.parse()?)
            }
        }
    }

    /// Asks a line server something whose answer has no count.
    ///
    /// # Errors
    /// When the connection is cut.
    pub(crate) fn say(&mut self, text: &str) -> Result<String> {
        self.line(&format!("{text}\n"))
    }
}

/// Clients that ask without pause, each over one connection that it keeps.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    highest: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<u64>>>,
}

impl Load {
    /// Connects so many clients and lets them ask.
    ///
    /// # Errors
    /// When one cannot connect.
    pub(crate) fn start(ip: &str, port: u16, protocol: Protocol, clients: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let highest = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for number in 0..clients {
            let mut client = Client::connect(ip, port, protocol)?;
            let (stop, highest) = (Arc::clone(&stop), Arc::clone(&highest));
            threads.push(std::thread::spawn(move || {
                let mut answers = 0;
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let count = client
                        .ask(&format!("client {number}"))
                        .with_context(|| format!("client {number} after {answers} answers"))?;
                    ensure!(
                        count > last,
                        "client {number} was told {count} after {last}"
                    );
                    last = count;
                    highest.fetch_max(count, Ordering::Relaxed);
                    answers += 1;
                }
                Ok(answers)
            }));
        }
        Ok(Self {
            stop,
            highest,
            threads,
        })
    }

    /// The highest count that a client was told.
    pub(crate) fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    /// Waits until clients were told at least that count.
    ///
    /// # Errors
    /// When they are not in time.
    pub(crate) fn wait_for(&self, count: u64) -> Result<()> {
        let what = format!("the clients to be told {count}");
        wait::until(&what, wait::PATIENCE, || {
            let failed = self.threads.iter().any(JoinHandle::is_finished);
            Ok((failed || self.highest() >= count).then_some(()))
        })
    }

    /// Ends the clients, as [`finish`](Self::finish); the highest count that one was told.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub(crate) fn finish_at(self) -> Result<u64> {
        let highest = Arc::clone(&self.highest);
        self.finish()?;
        Ok(highest.load(Ordering::Relaxed))
    }

    /// Ends the clients; each must have been answered to the last.
    ///
    /// # Errors
    /// When a connection was cut, with what was answered by then.
    pub(crate) fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = 0;
        for thread in self.threads {
            answers += thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(answers)
    }
}
