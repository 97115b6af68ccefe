//! Where an index waits for its upload: in memory, or in an unnamed temporary file; encrypted before it gets there, so that no name is on
//! this machine's disk.

use std::io::{self, Write};

use bytes::Bytes;
use tempfile::SpooledTempFile;

use crate::age::{Encryptor, Envelope, Recipient, Run};

/// An index up to this size stays in memory (about 100,000 chunks: 100 GiB); a larger one goes to the file.
const IN_MEMORY: usize = 4 << 20;

pub(super) struct Spool {
    file: SpooledTempFile,
    /// `None`: the index is stored as it is.
    encryptor: Option<Encryptor>,
}

impl Spool {
    pub(super) fn new(recipients: Option<&[Recipient]>) -> io::Result<Self> {
        let mut file = tempfile::spooled_tempfile(IN_MEMORY);
        let Some(recipients) = recipients else { return Ok(Self { file, encryptor: None }) };
        let envelope = Envelope::new(recipients).map_err(io::Error::other)?;
        file.write_all(envelope.prefix())?;
        Ok(Self { file, encryptor: Some(Encryptor::new(envelope)) })
    }

    /// The whole object.
    pub(super) fn finish(mut self) -> io::Result<SpooledTempFile> {
        if let Some(encryptor) = self.encryptor.take() {
            self.seal(encryptor.finish())?;
        }
        Ok(self.file)
    }

    fn seal(&mut self, run: Run) -> io::Result<()> {
        let (sealed, _) = run.seal().expect("a new object has nothing to diverge from");
        self.file.write_all(&sealed)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(encryptor) = &mut self.encryptor else { return self.file.write(bytes) };
        let runs = encryptor.write(Bytes::copy_from_slice(bytes));
        runs.into_iter().try_for_each(|run| self.seal(run))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;
    use crate::age::{self, Identity};

    #[test]
    fn the_file_has_what_was_written_plain_or_encrypted() {
        let ours = [Identity::generate().unwrap()];
        for pieces in [vec![], vec![0], vec![1, 70_000, 3], vec![65_536], vec![200_000, 200_000, 5_000_000]] {
            let plain: Vec<u8> = (0..251).cycle().take(pieces.iter().sum()).collect();
            for recipients in [None, Some([ours[0].recipient()])] {
                let mut spool = Spool::new(recipients.as_ref().map(<[Recipient; 1]>::as_slice)).unwrap();
                let mut at = 0;
                for piece in &pieces {
                    spool.write_all(&plain[at..at + piece]).unwrap();
                    at += piece;
                }
                let (mut file, mut stored) = (spool.finish().unwrap(), Vec::new());
                file.rewind().unwrap();
                file.read_to_end(&mut stored).unwrap();
                let read = if recipients.is_some() { age::open(&stored, &ours).unwrap() } else { stored };
                assert_eq!(read, plain, "{pieces:?}");
            }
        }
    }
}
