use std::io::Read;

use super::BUFFER;
use crate::tar::{self, Member};

/// Receives the members of an archive. For each member it gets one call of `begin`; then, as long as it wants data, any
/// number of calls of `data` and one of `end`. It is not called again after an error.
pub(super) trait Sink {
    type Error: From<tar::Error>;

    /// Starts a member. A sink that leaves out this member alone records it itself and wants no data.
    fn begin(&mut self, member: Member) -> Result<Wants, Self::Error>;

    /// The next bytes of the member's data, and their offset in the file: ascending, with gaps only at a sparse file's
    /// holes.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<Wants, Self::Error>;

    /// Ends the member's data.
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// Whether a sink wants more of the current member.
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
