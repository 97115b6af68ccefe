use crate::restore::salvage::{Hurt, Source};
use crate::tar::{self, Member};

/// Receives the members of an archive. For each member it gets one call of `begin`; then, as long as it wants data, any
/// number of calls of `data` and one of `end`, or one of `cut`. It is not called again after an error.
pub(super) trait Sink {
    type Error: From<tar::Error>;

    /// Starts a member. A sink that leaves out this member alone records it itself and wants no data.
    fn begin(&mut self, member: Member) -> Result<Wants, Self::Error>;

    /// The next bytes of the member's data, and their offset in the file: ascending, with gaps only at a sparse file's
    /// holes.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<Wants, Self::Error>;

    /// Ends the member's data.
    fn end(&mut self) -> Result<(), Self::Error>;

    /// A member is damaged: the current one, the next one, or one that is never begun.
    fn hurt(&mut self, hurt: Hurt) -> Result<(), Self::Error>;

    /// The rest of the current member cannot be read.
    fn cut(&mut self);
}

/// Whether a sink wants more of the current member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Data,
    Nothing,
}

/// Reads the whole archive from `source` into `sink`.
pub(super) fn unpack<S: Sink>(mut source: impl Source, sink: &mut S) -> Result<(), S::Error> {
    loop {
        match members(&mut tar::Reader::new(&mut source), sink) {
            Err(error) if !source.pass_over() => return Err(error),
            Err(_) => sink.cut(),
            Ok(()) => return Ok(()),
        }
    }
}

fn members<S: Sink>(archive: &mut tar::Reader<&mut impl Source>, sink: &mut S) -> Result<(), S::Error> {
    loop {
        let next = archive.next_member()?;
        tell(archive, sink)?;
        let Some(member) = next else { return Ok(()) };
        let mut wants = sink.begin(member)?;
        while wants == Wants::Data {
            let data = archive.data()?;
            tell(archive, sink)?;
            let Some((offset, length)) = data else {
                sink.end()?;
                break;
            };
            wants = archive.take(length, |bytes| sink.data(offset, bytes))??;
        }
    }
}

fn tell<S: Sink>(archive: &mut tar::Reader<&mut impl Source>, sink: &mut S) -> Result<(), S::Error> {
    archive.input().take_hurt().into_iter().try_for_each(|hurt| sink.hurt(hurt))
}
