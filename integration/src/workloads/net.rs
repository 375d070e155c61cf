//! TCP and UDP.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};

use super::{PEER, Workload};

/// Lines that a server answered, and connections that are open.
#[derive(Default)]
struct Served {
    lines: AtomicU64,
    open: AtomicU64,
}

/// A server that answers each line `TEXT` with `N TEXT`, N counting all lines of all clients, for
/// any number of clients. Clients come from outside; each step also connects from inside.
pub(super) struct Tcp {
    port: u16,
    served: Arc<Served>,
    acceptor: JoinHandle<()>,
}

impl Tcp {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let port = if value.is_empty() {
            7000
        } else {
            value.parse()?
        };
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let served = Arc::new(Served::default());
        let counters = Arc::clone(&served);
        let acceptor = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || {
                for connection in listener.incoming() {
                    let counters = Arc::clone(&counters);
                    let Ok(connection) = connection else { continue };
                    std::thread::spawn(move || {
                        counters.open.fetch_add(1, Ordering::Relaxed);
                        // A client that goes away, or that a restore cut off, is no failure.
                        drop(serve(&connection, &counters.lines));
                        counters.open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            })?;
        Ok(Box::new(Self {
            port,
            served,
            acceptor,
        }))
    }
}

fn serve(connection: &TcpStream, lines: &AtomicU64) -> Result<()> {
    let mut writer = connection;
    for line in BufReader::new(connection).lines() {
        let number = lines.fetch_add(1, Ordering::Relaxed) + 1;
        writer.write_all(format!("{number} {}\n", line?).as_bytes())?;
    }
    Ok(())
}

impl Workload for Tcp {
    fn step(&mut self, count: u64) -> Result<String> {
        ensure!(!self.acceptor.is_finished(), "the listener's thread ended");
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("connect")?;
        client.set_read_timeout(Some(PEER))?;
        // The dump may have come between: then the copy's connection is closed, which is right, and
        // writing and reading fail.
        let written = client.write_all(format!("step {count}\n").as_bytes());
        let mut answer = String::new();
        let got = written.and_then(|()| BufReader::new(&client).read_line(&mut answer));
        if got.is_ok_and(|length| length > 0) {
            ensure!(
                answer.ends_with(&format!(" step {count}\n")),
                "answer {answer:?}"
            );
        }
        Ok(format!(
            "lines={} open={}",
            self.served.lines.load(Ordering::Relaxed),
            self.served.open.load(Ordering::Relaxed)
        ))
    }
}

/// A datagram socket that talks to itself.
pub(super) struct Udp {
    socket: UdpSocket,
}

impl Udp {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(socket.local_addr()?)?;
        socket.set_read_timeout(Some(PEER))?;
        Ok(Box::new(Self { socket }))
    }
}

impl Workload for Udp {
    fn step(&mut self, count: u64) -> Result<String> {
        self.socket.send(&count.to_le_bytes())?;
        let mut found = [0; 8];
        loop {
            self.socket.recv(&mut found).context("receive")?;
            let found = u64::from_le_bytes(found);
            ensure!(found <= count, "datagram {found} of the future");
            if found == count {
                return Ok(String::new());
            }
        }
    }
}
