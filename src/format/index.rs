//! The index: a stream's chunk table and file list, as one compressed sequence of records in stream order.
//!
//! ```text
//! index    = zstd frames, together of: magic "PSTKIDX1", record…
//! record   = length (u32, little-endian, at most MAX_RECORD), that many bytes of postcard
//! ```
//!
//! A file's record comes no later than the chunk that contains its header's first byte; the last record is [`Record::End`]. Writer
//! and reader keep one record at a time, so their memory does not depend on the stream's length. The reader trusts nothing: it
//! bounds lengths before it uses them; chunks must cover the stream without gaps, offsets must lie inside the objects that the
//! manifest names, and the end record must agree with the manifest.

use std::cmp::Ordering;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::codec::{Encoding, max_stored};
use super::forgetful::Forgetful;
use super::manifest::{DataObject, SEALED_DIGEST, Stream};

const MAGIC: &[u8; 8] = b"PSTKIDX1";

/// The longest record: two paths of 64 KiB (four times what a system call accepts) and some more.
const MAX_RECORD: u32 = 192 << 10;

/// The longest path or link target.
pub const MAX_PATH: usize = 64 << 10;

/// The longest chunk, plain. A reader sizes its buffers by it.
pub const MAX_CHUNK: u32 = 4 << 20;

/// Compression level of the index itself: it is mostly digests, which do not compress.
const LEVEL: i32 = 3;

/// Plain bytes of a frame.
const FRAME: usize = 1 << 20;

/// SHA-256 of a chunk's plain bytes: its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

impl std::fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub id: ChunkId,
    pub plain_len: u32,
    pub encoding: Encoding,
    /// Position in the manifest's `objects`.
    pub object: u32,
    pub offset: u64,
    pub stored_len: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    #[default]
    Regular,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// Seconds and nanoseconds since 1970; nanoseconds count forward also before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileTime {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// One member of a tree's tar stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// As in the archive: relative, without a leading `./`; the root itself is `.`.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    pub kind: FileKind,
    /// Apparent size, including holes.
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: FileTime,
    /// Status change time, inode and device number on the node, which tell whether the file has changed.
    pub ctime: FileTime,
    pub inode: u64,
    pub device: u64,
    /// Target of a symbolic link, or path in the archive of a hard link's first name.
    #[serde(with = "serde_bytes")]
    pub link: Vec<u8>,
    /// Offset of the member's first header block in the stream.
    pub member_start: u64,
    /// Offset of its data (a sparse file's map is the first part of it).
    pub content_start: u64,
    /// Bytes of data in the stream, without the padding to a whole block.
    pub content_len: u64,
}

impl FileEntry {
    /// The member's bytes in the stream: headers, data and padding.
    ///
    /// Does not overflow: [`Reader`] has checked it.
    #[must_use]
    pub fn member(&self) -> std::ops::Range<u64> {
        self.member_start..(self.content_start + self.content_len).next_multiple_of(512)
    }
}

/// The order of a tree's members: a directory, its content, then its siblings; names by their bytes.
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let root = |path: &[u8]| path != b".";
    // No name holds a NUL, so a slash that sorts as NUL comes before any byte that continues a name.
    let bytes = |path| <[u8]>::iter(path).map(|byte| if *byte == b'/' { 0 } else { *byte });
    root(a).cmp(&root(b)).then_with(|| bytes(a).cmp(bytes(b)))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    Chunk(Chunk),
    File(FileEntry),
    End { chunks: u64, files: u64, plain_bytes: u64 },
}

/// The writer's counts, for the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub chunks: u64,
    pub files: u64,
    pub plain_bytes: u64,
    /// SHA-256 over the chunk ids in order.
    pub digest: [u8; 32],
}

/// Writes an index to `W`, compressed.
pub struct Writer<W: Write> {
    out: Frames<W>,
    buffer: Vec<u8>,
    chunks: u64,
    files: u64,
    plain_bytes: u64,
    digest: Sha256,
}

impl<W: Write> Writer<W> {
    /// # Errors
    /// When `out` cannot be written.
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = Frames { out, compressor: Forgetful::new(LEVEL, &[])?, block: Vec::with_capacity(FRAME) };
        out.write_all(MAGIC)?;
        Ok(Self { out, buffer: Vec::new(), chunks: 0, files: 0, plain_bytes: 0, digest: Sha256::new() })
    }

    /// # Errors
    /// When the output cannot be written.
    pub fn chunk(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.chunks += 1;
        self.plain_bytes += u64::from(chunk.plain_len);
        self.digest.update(chunk.id.0);
        self.record(&Record::Chunk(*chunk))
    }

    /// # Errors
    /// When the output cannot be written, or a path is longer than [`MAX_PATH`].
    pub fn file(&mut self, file: FileEntry) -> io::Result<()> {
        if file.path.len() > MAX_PATH || file.link.len() > MAX_PATH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path is longer than 64 KiB"));
        }
        self.files += 1;
        self.record(&Record::File(file))
    }

    /// Ends the index and returns `W`.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn finish(mut self) -> io::Result<(W, Totals)> {
        let (chunks, files, plain_bytes) = (self.chunks, self.files, self.plain_bytes);
        self.record(&Record::End { chunks, files, plain_bytes })?;
        let digest = self.digest.finalize().into();
        Ok((self.out.finish()?, Totals { chunks, files, plain_bytes, digest }))
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let buffer = postcard::to_extend(record, buffer).map_err(io::Error::other)?;
        let length = u32::try_from(buffer.len()).ok().filter(|length| *length <= MAX_RECORD);
        let length = length.ok_or_else(|| io::Error::other("an index record is too long"))?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&buffer)?;
        self.buffer = buffer;
        Ok(())
    }
}

/// Compresses block by block: a compressor of a stream would keep its last megabytes in memory that zstd frees without zeroing it.
struct Frames<W: Write> {
    out: W,
    compressor: Forgetful,
    block: Vec<u8>,
}

impl<W: Write> Frames<W> {
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(FRAME - self.block.len());
            self.block.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.block.len() == FRAME {
                self.end_frame()?;
            }
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let frame = self.compressor.compress(&self.block)?;
        self.block.clear();
        self.out.write_all(&frame)
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.end_frame()?;
        }
        Ok(self.out)
    }
}

/// Why an index is refused. The caller adds the key.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("could not be read: {0}")]
    Read(#[source] io::Error),
    #[error("does not start with {:?}: it is no index, or of a newer version", "PSTKIDX1")]
    Magic,
    #[error("record {record} is malformed: {reason}")]
    Record { record: u64, reason: String },
    #[error("record {record}: {field} is {found}; expected {expected}")]
    Mismatch { record: u64, field: &'static str, expected: String, found: String },
    #[error("has data after its end record; expected none")]
    Trailing,
}

/// Reads and checks an index, one record at a time.
pub struct Reader<R: Read> {
    input: R,
    /// Size of each data object, by position.
    objects: Vec<u64>,
    expected: Totals,
    buffer: Vec<u8>,
    record: u64,
    chunks: u64,
    files: u64,
    plain_bytes: u64,
    last_member: u64,
    digest: Sha256,
    done: bool,
}

impl<R: Read> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Opens a compressed index that `stream` of a checked manifest describes.
///
/// # Errors
/// When it is not a zstd stream that starts with the index's magic.
pub fn open<R: Read>(
    input: R,
    stream: &Stream,
) -> Result<Reader<zstd::stream::read::Decoder<'static, io::BufReader<R>>>, IndexError> {
    let mut decoder = zstd::stream::read::Decoder::new(input).map_err(IndexError::Read)?;
    // 8 MiB: the largest window that Penstock's own level uses. A hostile frame cannot ask for more memory.
    decoder.window_log_max(23).map_err(IndexError::Read)?;
    let expected =
        Totals { chunks: stream.chunks, files: stream.files, plain_bytes: stream.plain_bytes, digest: stream.digest };
    Reader::new(decoder, stream.objects.iter().map(DataObject::payload_len).collect(), expected)
}

impl<R: Read> Reader<R> {
    fn new(mut input: R, objects: Vec<u64>, expected: Totals) -> Result<Self, IndexError> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => IndexError::Magic,
            _ => IndexError::Read(error),
        })?;
        if &magic != MAGIC {
            return Err(IndexError::Magic);
        }
        Ok(Self {
            input,
            objects,
            expected,
            buffer: Vec::new(),
            record: 0,
            chunks: 0,
            files: 0,
            plain_bytes: 0,
            last_member: 0,
            digest: Sha256::new(),
            done: false,
        })
    }

    /// The next chunk or file; `None` after an end that agrees with the manifest.
    ///
    /// # Errors
    /// At the first inconsistency; nothing after it can be trusted.
    pub fn next_record(&mut self) -> Result<Option<Record>, IndexError> {
        if self.done {
            return Ok(None);
        }
        let record = self.decode()?;
        match &record {
            Record::Chunk(chunk) => self.check_chunk(chunk)?,
            Record::File(file) => self.check_file(file)?,
            Record::End { chunks, files, plain_bytes } => {
                self.check_end(*chunks, *files, *plain_bytes)?;
                self.done = true;
                return Ok(None);
            }
        }
        self.record += 1;
        Ok(Some(record))
    }

    fn decode(&mut self) -> Result<Record, IndexError> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(IndexError::Read)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_RECORD {
            return Err(self.mismatch("length", format!("at most {MAX_RECORD}"), length));
        }
        self.buffer.resize(length as usize, 0);
        self.input.read_exact(&mut self.buffer).map_err(IndexError::Read)?;
        let malformed = |reason: String| IndexError::Record { record: self.record, reason };
        let (record, rest) = postcard::take_from_bytes(&self.buffer).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes follow its fields; expected none", rest.len())));
        }
        Ok(record)
    }

    fn check_chunk(&mut self, chunk: &Chunk) -> Result<(), IndexError> {
        if chunk.plain_len == 0 || chunk.plain_len > MAX_CHUNK {
            return Err(self.mismatch("plain_len", format!("1 to {MAX_CHUNK}"), chunk.plain_len));
        }
        let most = match chunk.encoding {
            Encoding::Raw => chunk.plain_len,
            Encoding::Zstd => max_stored(chunk.plain_len),
        };
        let least = if chunk.encoding == Encoding::Raw { chunk.plain_len } else { 1 };
        if chunk.stored_len < least || chunk.stored_len > most {
            return Err(self.mismatch("stored_len", format!("{least} to {most}"), chunk.stored_len));
        }
        let Some(size) = self.objects.get(chunk.object as usize).copied() else {
            return Err(self.mismatch("object", format!("below {}", self.objects.len()), chunk.object));
        };
        if chunk.offset.checked_add(u64::from(chunk.stored_len)).is_none_or(|end| end > size) {
            let found = format!("{}+{}", chunk.offset, chunk.stored_len);
            return Err(self.mismatch("offset", format!("an end within the object's {size} bytes"), found));
        }
        self.chunks += 1;
        self.plain_bytes += u64::from(chunk.plain_len);
        self.digest.update(chunk.id.0);
        if self.plain_bytes > self.expected.plain_bytes {
            return Err(self.mismatch(
                "plain bytes so far",
                format!("at most {}", self.expected.plain_bytes),
                self.plain_bytes,
            ));
        }
        Ok(())
    }

    fn check_file(&mut self, file: &FileEntry) -> Result<(), IndexError> {
        if file.path.len() > MAX_PATH || file.link.len() > MAX_PATH {
            return Err(self.mismatch(
                "path length",
                format!("at most {MAX_PATH}"),
                file.path.len().max(file.link.len()),
            ));
        }
        let end = file.content_start.checked_add(file.content_len).and_then(|end| end.checked_next_multiple_of(512));
        let in_order = file.member_start >= self.last_member && file.member_start < file.content_start;
        if !in_order || end.is_none_or(|end| end > self.expected.plain_bytes) {
            let found = format!("{}, {}+{}", file.member_start, file.content_start, file.content_len);
            let expected = format!("members in order within {} bytes", self.expected.plain_bytes);
            return Err(self.mismatch("member position", expected, found));
        }
        self.last_member = file.member().end;
        self.files += 1;
        if self.files > self.expected.files {
            return Err(self.mismatch("files so far", format!("at most {}", self.expected.files), self.files));
        }
        Ok(())
    }

    fn check_end(&mut self, chunks: u64, files: u64, plain_bytes: u64) -> Result<(), IndexError> {
        for (field, end, counted, expected) in [
            ("chunks", chunks, self.chunks, self.expected.chunks),
            ("files", files, self.files, self.expected.files),
            ("plain bytes", plain_bytes, self.plain_bytes, self.expected.plain_bytes),
        ] {
            if counted != expected || end != expected {
                return Err(self.mismatch(field, format!("{expected}, as the manifest says"), counted));
            }
        }
        let digest: [u8; 32] = std::mem::take(&mut self.digest).finalize().into();
        // Where it is sealed, the index is bound by its own SHA-256.
        if self.expected.digest != SEALED_DIGEST && digest != self.expected.digest {
            return Err(self.mismatch("digest", hex::encode(self.expected.digest), hex::encode(digest)));
        }
        if self.input.read(&mut [0]).map_err(IndexError::Read)? != 0 {
            return Err(IndexError::Trailing);
        }
        Ok(())
    }

    fn mismatch(&self, field: &'static str, expected: impl ToString, found: impl ToString) -> IndexError {
        IndexError::Mismatch { record: self.record, field, expected: expected.to_string(), found: found.to_string() }
    }
}
