//! The publisher's ears: its listening sockets, and the threads that accept.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::address::{beside, is_loopback, unix_path};
use super::publisher::Shared;
use super::serve::serve;
use crate::{Error, Result};

/// Connections of one listening socket served at once; more wait in the system's queue until one ends.
const MAX_CONNECTIONS: usize = 256;
/// Those that wait there.
const BACKLOG: i32 = 128;
/// How often an accepting thread looks whether the publisher was closed.
const ACCEPT_POLL: Duration = Duration::from_millis(100);
/// Stack of a connection's thread.
const STACK_BYTES: usize = 256 << 10;

/// Listens on `bind`; returns the address that subscribers connect to, and the listening sockets.
pub(super) fn listen(bind: &str, has_token: bool) -> Result<(String, Vec<OwnedFd>)> {
    let failed = |error| Error::io(format!("listening on {bind}"), error);
    let (address, sockets) = match unix_path(bind) {
        Some(path) => (bind.to_string(), vec![listen_on_path(path).map_err(failed)?.into()]),
        None => listen_on_port(bind, has_token)?,
    };
    for socket in &sockets {
        sockopt::set_socket_timeout(socket, Timeout::Recv, Some(ACCEPT_POLL)).map_err(|error| failed(error.into()))?;
    }
    Ok((address, sockets))
}

fn listen_on_port(bind: &str, has_token: bool) -> Result<(String, Vec<OwnedFd>)> {
    let failed = |error| Error::io(format!("listening on {bind}"), error);
    let addresses: Vec<SocketAddr> = bind.to_socket_addrs().map_err(failed)?.collect();
    if !has_token && !addresses.iter().all(|address| is_loopback(address.ip())) {
        return Err(Error::invalid(format!(
            "bind={bind:?} is reachable from other machines and token is empty; give a token, or bind to 127.0.0.1"
        )));
    }
    let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut sockets = vec![listener.into()];
    // Without a token a stranger could have taken the name before, and nobody would notice.
    if has_token && let Some(name) = beside(address) {
        let failed = |error: Errno| Error::io(format!("listening on the UNIX socket {name:?}"), error.into());
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(failed)?;
        rustix::net::bind(&socket, &name).map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
        sockets.push(socket);
    }
    Ok((address.to_string(), sockets))
}

/// Takes over a path that a publisher left behind when it died, but not a living one's.
fn listen_on_path(path: &str) -> std::io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

/// Accepts on a thread of its own until the publisher is closed, then waits for the connections to notice.
pub(super) fn spawn(listener: OwnedFd, shared: &Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    Builder::new().name("spo-publisher".into()).spawn(move || accept(&listener, &shared))
}

fn accept(listener: &OwnedFd, shared: &Arc<Shared>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !shared.closing.load(Ordering::Relaxed) {
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS {
            std::thread::sleep(ACCEPT_POLL);
            continue;
        }
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => {
                let shared = Arc::clone(shared);
                let thread = Builder::new().name("spo-serve".into()).stack_size(STACK_BYTES);
                // No thread to be had: the peer sees a closed connection.
                connections.extend(thread.spawn(move || serve(socket, &shared)));
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => std::thread::sleep(ACCEPT_POLL), // out of descriptors, or the peer left: never a reason to stop
        }
    }
    for connection in connections {
        let _ = connection.join(); // a panic there has already been printed
    }
}
