//! The encoding of one trajectory: a directory of streams, then the streams. Scalars, prompt, response and each later
//! column are separate streams, so that a reader decompresses only the columns it wants. No checksum: whoever frames the
//! record adds it.
//!
//! A store keeps a prompt that many records share once: then the record has, instead of the prompt, the place of a frame
//! with it; the same with the tables by which it is coded. Columns that come late ([`Late`](super::Late)) are encoded the same
//! way, alone.
//!
//! ```text
//! version:u8  count:u8  count × { tag << 2 | codec: u8  stored_length:varint  [raw_length:varint] }  streams…
//! ```
//!
//! The raw length is there where zstd is at work.

mod decode;
mod encode;
mod present;
mod streams;

pub use decode::{Decoded, Record, Scalars, decode};
pub use encode::{Coding, Encoded, Places, Prompt, Prompts, tables_frame};
pub use present::{Columns, Present};
pub use streams::{MAX_RECORD_BYTES, MAX_STREAM_BYTES};
