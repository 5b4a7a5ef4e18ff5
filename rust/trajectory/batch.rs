//! Many trajectories as one message: what workers send and any process may keep in a file. Checksummed and capped, so
//! that damage on the way is an error here and never a wrong trajectory.
//!
//! ```text
//! "SPOT"  version:u8  count:varint  count × { length:varint  record }  crc32c:u32 of everything before
//! ```

use std::path::PathBuf;

use super::Trajectory;
use super::bytes::{Cursor, Damage, put_bytes, put_varint};
use super::record::{self, Coding, Columns, Decoded, Encoded, MAX_RECORD_BYTES, Places, Prompts};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

const MAGIC: [u8; 4] = *b"SPOT";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Most trajectories in one message.
pub const MAX_BATCH: usize = 1 << 20;

/// Encodes trajectories, each of which must be valid.
pub fn encode_trajectories<T: AsRef<Trajectory>>(trajectories: &[T], interrupt: Interrupt<'_>) -> Result<Vec<u8>> {
    if trajectories.len() > MAX_BATCH {
        let count = trajectories.len();
        return Err(Error::invalid(format!("{count} trajectories in one message, the limit is {MAX_BATCH}")));
    }
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    put_varint(&mut out, trajectories.len() as u64);
    let (mut encoded, coding, prompts) = (Vec::new(), Coding::default(), Prompts::default());
    for trajectory in trajectories {
        interrupt.check()?;
        encoded.clear();
        Encoded::new(trajectory.as_ref(), &coding, &prompts)?.put(Places::default(), &mut encoded);
        put_bytes(&mut out, &encoded);
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    Ok(out)
}

/// Decodes what [`encode_trajectories`] made; anything else is [`Error::Corrupt`].
pub fn decode_trajectories(bytes: &[u8], interrupt: Interrupt<'_>) -> Result<Vec<Trajectory>> {
    let corrupt = |damage: Damage| Error::Corrupt {
        path: PathBuf::from("encoded trajectories"),
        offset: damage.offset as u64,
        what: damage.what,
    };
    let body = checked_body(bytes).map_err(corrupt)?;
    let mut cursor = Cursor::new(body);
    let mut head = || {
        let magic: [u8; 4] = cursor.array("magic")?;
        let version = cursor.byte("version")?;
        if magic != MAGIC || version != VERSION {
            return Err(cursor.damage(format!("not version {VERSION} of encoded trajectories")));
        }
        cursor.length(MAX_BATCH, "trajectory count")
    };
    let count = head().map_err(corrupt)?;
    let mut trajectories = Vec::new();
    for _ in 0..count {
        interrupt.check()?;
        let length = cursor.length(MAX_RECORD_BYTES, "record length").map_err(corrupt)?;
        let start = cursor.offset();
        let encoded = cursor.take(length, "record").map_err(corrupt)?;
        let trajectory = record::decode(encoded, Columns::ALL)
            .and_then(Decoded::whole)
            .map_err(|damage| corrupt(Damage { offset: start + damage.offset, ..damage }))?;
        trajectory.validate().map_err(|error| corrupt(Damage { offset: start, what: error.to_string() }))?;
        trajectories.push(trajectory);
    }
    cursor.finish("the last trajectory").map_err(corrupt)?;
    Ok(trajectories)
}

fn checked_body(bytes: &[u8]) -> Result<&[u8], Damage> {
    let Some((body, stored)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(Damage { offset: 0, what: format!("{} bytes are too few", bytes.len()) });
    };
    if crc32c::crc32c(body) != u32::from_le_bytes(*stored) {
        return Err(Damage { offset: body.len(), what: "the checksum does not match: cut or changed".to_owned() });
    }
    Ok(body)
}
