//! Where a publisher listens: "host:port", or "unix:/path" for those on its host.
//!
//! Beside a port of the loopback interface a publisher listens on a UNIX socket too, which carries more: its name, in the
//! kernel's namespace without files, is made from the address, so who knows that finds it, and nobody else's is found.

use std::net::{IpAddr, SocketAddr};

use rustix::net::SocketAddrUnix;

use crate::{Error, Result};

const UNIX: &str = "unix:";

/// The path of a "unix:/path" address; `None` for one of the other form.
pub(super) fn unix_path(address: &str) -> Option<&str> {
    address.strip_prefix(UNIX)
}

/// Refuses what is of neither form.
pub(super) fn check(address: &str) -> Result<()> {
    let is_fine = match unix_path(address) {
        Some(path) => path.starts_with('/') && SocketAddrUnix::new(path).is_ok(),
        None => address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()),
    };
    if is_fine {
        return Ok(());
    }
    Err(Error::invalid(format!("address {address:?} is not of the form \"host:port\" or \"unix:/path\"")))
}

/// The UNIX socket beside a port of the loopback interface; `None` for other addresses.
pub(super) fn beside(address: SocketAddr) -> Option<SocketAddrUnix> {
    if !is_loopback(address.ip()) {
        return None;
    }
    SocketAddrUnix::new_abstract_name(format!("spo-weights {address}").as_bytes()).ok()
}

pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
