//! The handshake: publisher and subscriber prove to each other that they know the run's token, without
//! sending it.
//!
//! ```text
//! publisher → magic 8 | nonce 32
//! subscriber → magic 8 | nonce 32 | HMAC-SHA256(token, "spo weights subscriber" publisher-nonce
//! subscriber-nonce) publisher → verdict u8 | HMAC-SHA256(token, "spo weights publisher" publisher-nonce
//! subscriber-nonce)
//! ```
//! The magic carries the protocol's version. Proofs are compared in constant time.

use std::time::Instant;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::link::{Link, LinkError};

const MAGIC: [u8; 8] = *b"SPOWGT\x00\x01";
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

/// Why no authenticated connection came about.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The connection failed underneath; trying again may help.
    Link(LinkError),
    /// The peer is something else, or does not know the token; trying again will not help.
    Refused(String),
}

impl From<LinkError> for HandshakeError {
    fn from(error: LinkError) -> Self {
        HandshakeError::Link(error)
    }
}

/// The publisher's side.
pub(super) fn accept(link: &mut Link<'_>, token: &[u8], deadline: Instant) -> Result<(), HandshakeError> {
    let nonce = fresh_nonce()?;
    link.write_all(&MAGIC, &nonce, "the greeting", deadline)?;
    let mut answer = [0; MAGIC.len() + NONCE_BYTES + PROOF_BYTES];
    link.read_exact(&mut answer[..MAGIC.len()], "the greeting", deadline)?;
    if answer[..MAGIC.len()] != MAGIC {
        return Err(HandshakeError::Refused(format!("{} is no weight subscriber", link.peer)));
    }
    link.read_exact(&mut answer[MAGIC.len()..], "its proof", deadline)?;
    let (its_nonce, its_proof) = answer[MAGIC.len()..].split_at(NONCE_BYTES);
    let transcript = [&nonce[..], its_nonce].concat();
    if proof(token, "subscriber", &transcript).verify_slice(its_proof).is_err() {
        link.write_all(&[REFUSED], &[0; PROOF_BYTES], "the refusal", deadline)?;
        return Err(HandshakeError::Refused(format!("{} does not know the token", link.peer)));
    }
    let ours = proof(token, "publisher", &transcript).finalize().into_bytes();
    link.write_all(&[ACCEPTED], &ours, "the proof", deadline)?;
    Ok(())
}

/// The subscriber's side.
pub(super) fn request(link: &mut Link<'_>, token: &[u8], deadline: Instant) -> Result<(), HandshakeError> {
    let nonce = fresh_nonce()?;
    let mut greeting = [0; MAGIC.len() + NONCE_BYTES];
    link.read_exact(&mut greeting, "the greeting", deadline)?;
    let (magic, its_nonce) = greeting.split_at(MAGIC.len());
    if magic != MAGIC {
        let what = "is no weight publisher, or speaks another version of the protocol";
        return Err(HandshakeError::Refused(format!("{} {what}", link.peer)));
    }
    let transcript = [its_nonce, &nonce[..]].concat();
    let ours = proof(token, "subscriber", &transcript).finalize().into_bytes();
    link.write_all(&[MAGIC.as_slice(), nonce.as_slice()].concat(), &ours, "the proof", deadline)?;
    let mut verdict = [0; 1 + PROOF_BYTES];
    link.read_exact(&mut verdict, "its proof", deadline)?;
    if verdict[0] != ACCEPTED {
        let what = "refused the token; give publisher and subscribers the same one";
        return Err(HandshakeError::Refused(format!("{} {what}", link.peer)));
    }
    if proof(token, "publisher", &transcript).verify_slice(&verdict[1..]).is_err() {
        return Err(HandshakeError::Refused(format!("{} does not know the token itself", link.peer)));
    }
    Ok(())
}

fn fresh_nonce() -> Result<[u8; NONCE_BYTES], HandshakeError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)
        .map_err(|error| LinkError::Closed(format!("no randomness from the system: {error}")))?;
    Ok(nonce)
}

fn proof(token: &[u8], role: &str, transcript: &[u8]) -> Hmac<Sha256> {
    let key = Hmac::<Sha256>::new_from_slice(token);
    let mut mac = key.unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"));
    mac.update(b"spo weights ");
    mac.update(role.as_bytes());
    mac.update(transcript);
    mac
}
