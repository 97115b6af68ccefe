//! Feeds the members of an archive to where they are restored.

use std::io::Read;

use super::BUFFER;
use crate::tar::{self, Member};

/// Where the members of an archive go. For each member there is one call of `begin`; while the sink wants its data, any
/// number of calls of `data` and one of `end`. An error ends the archive: the sink is not called again.
pub(super) trait Sink {
    type Error: From<tar::Error>;

    /// Starts a member. What keeps this member alone out is the sink's to note; the sink wants no data then.
    fn begin(&mut self, member: Member) -> Result<Wants, Self::Error>;

    /// The next bytes of the member's data, and where in the file they belong: ascending, with gaps only where a sparse
    /// file has holes.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<Wants, Self::Error>;

    /// All data of the member has come.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// Whether a sink wants more of the member at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Data,
    Nothing,
}

/// Reads the whole archive from `input` into `sink`.
pub(super) fn unpack<S: Sink>(input: impl Read, sink: &mut S) -> Result<(), S::Error> {
    let mut archive = tar::Reader::new(input);
    let mut buffer = vec![0; BUFFER];
    while let Some(member) = archive.next_member()? {
        let mut wants = sink.begin(member)?;
        while wants == Wants::Data {
            let Some((offset, length)) = archive.data(&mut buffer)? else {
                sink.end()?;
                break;
            };
            wants = sink.data(offset, &buffer[..length])?;
        }
    }
    Ok(())
}
