//! A TCP or UNIX socket whose every wait has a deadline, can be called off within [`POLL`], and names the peer. Bytes
//! only: what they mean is for `wire`, `handshake`, `serve` and `fetch`.

use std::io::IoSlice;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::address::{beside, unix_path};

/// The longest time that a wait goes on without looking at its deadline and at the stop flag.
pub(super) const POLL: Duration = crate::Interrupt::POLL;

/// What a UNIX socket takes before its writer waits: a chunk or two, so that both sides hash while the other copies.
const UNIX_BUFFER_BYTES: usize = 1 << 20;

/// Why a wait ended without what it waited for.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The connection is gone, or was never made.
    Closed(String),
    /// The deadline passed.
    TimedOut(String),
    /// The stop flag was raised.
    Stopped,
}

/// A connected socket, its peer's name for messages, and the flag that calls its waits off.
pub(super) struct Link<'a> {
    socket: OwnedFd,
    /// The peer's address.
    pub(super) peer: String,
    stop: &'a AtomicBool,
}

impl<'a> Link<'a> {
    /// Takes over a connected socket.
    pub(super) fn new(socket: OwnedFd, peer: String, stop: &'a AtomicBool) -> std::io::Result<Self> {
        if sockopt::set_tcp_nodelay(&socket, true).is_err() {
            // A UNIX socket has no such setting; and its buffer does not grow by itself.
            let _ = sockopt::set_socket_send_buffer_size(&socket, UNIX_BUFFER_BYTES);
        }
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(POLL))?;
        sockopt::set_socket_timeout(&socket, Timeout::Send, Some(POLL))?;
        Ok(Link { socket, peer, stop })
    }

    /// Connects to `address` ("host:port" or "unix:/path"); with `local`, to the UNIX socket beside a loopback address if
    /// there is one.
    pub(super) fn connect(
        address: &str,
        local: bool,
        stop: &'a AtomicBool,
        deadline: Instant,
    ) -> Result<Self, LinkError> {
        let failed = |why: String| LinkError::Closed(format!("connecting to {address}: {why}"));
        let made = |socket| Link::new(socket, address.to_string(), stop).map_err(|error| failed(error.to_string()));
        if let Some(path) = unix_path(address) {
            let path = SocketAddrUnix::new(path).map_err(|error| failed(error.to_string()))?;
            return match connect_one(AddressFamily::UNIX, &path, stop, deadline) {
                Err(LinkError::Closed(why)) => Err(failed(why)),
                other => made(other?),
            };
        }
        let mut failure = LinkError::Closed(format!("{address} names no address"));
        for candidate in resolve(address, stop, deadline)? {
            if let Some(name) = beside(candidate).filter(|_| local)
                && let Ok(socket) = connect_one(AddressFamily::UNIX, &name, stop, deadline)
            {
                return made(socket);
            }
            let family = if candidate.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            match connect_one(family, &candidate, stop, deadline) {
                Ok(socket) => return made(socket),
                Err(LinkError::Closed(why)) => failure = failed(why),
                Err(other) => return Err(other),
            }
        }
        Err(failure)
    }

    /// Fills `buffer`; `what` names the wait.
    pub(super) fn read_exact(&mut self, mut buffer: &mut [u8], what: &str, deadline: Instant) -> Result<(), LinkError> {
        while !buffer.is_empty() {
            // Waits for all of it, at most [`POLL`] in one call: fewer wake-ups than taking what is there.
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::WAITALL) {
                Ok((_, 0)) => {
                    return Err(LinkError::Closed(format!("{} closed while {what} was awaited", self.peer)));
                }
                Ok((_, count)) if count == buffer.len() => break,
                Ok((_, count)) => buffer = &mut buffer[count..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(LinkError::Closed(format!("{what} from {}: {error}", self.peer))),
            }
            // After a part too: a peer may send byte after byte, each in time.
            check(self.stop, deadline, || format!("{} did not send {what} in time", self.peer))?;
        }
        Ok(())
    }

    /// Sends `head`, then `body`; `what` names the wait.
    pub(super) fn write_all(
        &mut self,
        mut head: &[u8],
        mut body: &[u8],
        what: &str,
        deadline: Instant,
    ) -> Result<(), LinkError> {
        while !head.is_empty() || !body.is_empty() {
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let mut control = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    let of_head = count.min(head.len());
                    head = &head[of_head..];
                    body = &body[count - of_head..];
                    if head.is_empty() && body.is_empty() {
                        break;
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(LinkError::Closed(format!("{what} to {}: {error}", self.peer))),
            }
            check(self.stop, deadline, || format!("{} did not take {what} in time", self.peer))?;
        }
        Ok(())
    }
}

/// Waits `duration`, or less where the deadline or the stop flag comes first.
pub(super) fn pause(duration: Duration, stop: &AtomicBool, deadline: Instant) {
    let until = deadline.min(Instant::now() + duration);
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(POLL));
    }
}

fn check(stop: &AtomicBool, deadline: Instant, late: impl FnOnce() -> String) -> Result<(), LinkError> {
    if stop.load(Ordering::Relaxed) {
        Err(LinkError::Stopped)
    } else if Instant::now() >= deadline {
        Err(LinkError::TimedOut(late()))
    } else {
        Ok(())
    }
}

/// Looks `address` up on a thread of its own, since the system's resolver knows neither deadline nor stop
/// flag.
fn resolve(address: &str, stop: &AtomicBool, deadline: Instant) -> Result<Vec<SocketAddr>, LinkError> {
    if let Ok(known) = address.parse() {
        return Ok(vec![known]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = address.to_string();
    let lookup = move || {
        let found = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let _ = sender.send(found); // nobody listens any more once the deadline has passed
    };
    let spawned = std::thread::Builder::new().name("spo-resolve".into()).spawn(lookup);
    spawned.map_err(|error| LinkError::Closed(format!("looking up {address}: {error}")))?;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => return Err(LinkError::Closed(format!("looking up {address}: {error}"))),
            Err(_) => check(stop, deadline, || format!("looking up {address} took too long"))?,
        }
    }
}

fn connect_one(
    family: AddressFamily,
    address: &impl SocketAddrArg,
    stop: &AtomicBool,
    deadline: Instant,
) -> Result<OwnedFd, LinkError> {
    let closed = |error: Errno| LinkError::Closed(std::io::Error::from(error).to_string());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(closed)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let slice = Timespec { tv_sec: 0, tv_nsec: POLL.subsec_nanos().into() };
            loop {
                let mut waited_for = [PollFd::new(&socket, PollFlags::OUT)];
                match rustix::event::poll(&mut waited_for, Some(&slice)) {
                    Ok(0) | Err(Errno::INTR) => check(stop, deadline, || "it did not accept in time".to_string())?,
                    Ok(_) => break,
                    Err(error) => return Err(closed(error)),
                }
            }
            sockopt::socket_error(&socket).map_err(closed)?.map_err(closed)?;
        }
        Err(error) => return Err(closed(error)),
    }
    rustix::io::ioctl_fionbio(&socket, false).map_err(closed)?;
    Ok(socket)
}
