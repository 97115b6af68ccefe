//! `penstock show --files`: writes while it reads the index, so that memory does not grow with the number of files.
//!
//! Reads the index on a thread that may block. A failure after the first line leaves the lines before it; a JSON document is
//! complete even then, and has the failure in `error`.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Failure;
use super::args::OutputFormat;
use super::output::Done;
use crate::download::{self, index};
use crate::error::Classify as _;
use crate::find;
use crate::format::index::{FileEntry, FileKind, FileTime};
use crate::format::key::Name;
use crate::format::manifest::{Item, Manifest, Stream};
use crate::location::Location;
use crate::pattern::printable;

/// Bytes written to standard output at a time.
const BUFFER: usize = 64 << 10;

/// Why a listing ends early.
#[derive(Debug)]
enum Failed {
    Output(io::Error),
    Index(download::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<download::Error> for Failed {
    fn from(error: download::Error) -> Self {
        Self::Index(error)
    }
}

pub(super) async fn show(location: &Location, manifest: Manifest, format: OutputFormat) -> Result<Done, Failure> {
    let (location, runtime) = (location.clone(), Handle::current());
    let fetch = move |stream: &Stream| runtime.block_on(index::fetch(&location, stream));
    let write = move || {
        let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        match format {
            OutputFormat::Human => text(&mut out, &manifest, fetch),
            OutputFormat::Json => document(&mut out, &manifest, fetch),
        }
    };
    let written = tokio::task::spawn_blocking(write).await;
    match written.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(()) => Ok(Done::text("")),
        // The reader of the pipe has seen enough (`penstock show --files … | head`).
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Done::text("")),
        Err(Failed::Output(error)) => Err(Failure::local("write the result", &error)),
        // The document has the error.
        Err(Failed::Index(error)) if format == OutputFormat::Json => Ok(Done::text("").code(error.class().exit_code())),
        Err(Failed::Index(error)) => Err(error.into()),
    }
}

/// Writes a line for each file.
fn text(
    out: &mut impl Write,
    manifest: &Manifest,
    fetch: impl Fn(&Stream) -> Result<index::IndexFile, download::Error>,
) -> Result<(), Failed> {
    let listed = files(manifest, fetch, |item, file| line(out, item, file));
    out.flush()?;
    listed
}

pub(super) fn line(out: &mut impl Write, item: &Item, file: &FileEntry) -> io::Result<()> {
    let (kind, mode, size) = (kind(file.kind), mode(file), file.size);
    let (time, name, path) = (time(file.mtime), &item.name, printable(&file.path));
    let time = time.map_or_else(String::new, |at| at.to_string());
    writeln!(out, "{kind:<12} {mode} {size:>14} {time} {name}/{path}")
}

/// Writes the manifest as JSON, with all files in `files`.
fn document(
    out: &mut impl Write,
    manifest: &Manifest,
    fetch: impl Fn(&Stream) -> Result<index::IndexFile, download::Error>,
) -> Result<(), Failed> {
    let mut json = serde_json::to_value(manifest).expect("a manifest has only string keys and finite numbers");
    json["files"] = Value::Null;
    let fields = json.as_object().expect("a manifest is an object");
    let (mut before, mut listed) = ('{', Ok(()));
    for (name, value) in fields {
        write!(out, "{before}{}:", json!(name))?;
        before = ',';
        if name != "files" {
            write!(out, "{value}")?;
            continue;
        }
        let mut before = "";
        out.write_all(b"[")?;
        listed = files(manifest, &fetch, |item, file| {
            write!(out, "{before}{}", entry(&item.name, file))?;
            before = ",";
            Ok(())
        });
        if matches!(listed, Err(Failed::Output(_))) {
            return listed;
        }
        out.write_all(b"]")?;
    }
    if let Err(Failed::Index(error)) = &listed {
        write!(out, ",\"error\":{}", json!(error.report()))?;
    }
    out.write_all(b"}\n")?;
    out.flush()?;
    listed
}

fn files(
    manifest: &Manifest,
    fetch: impl Fn(&Stream) -> Result<index::IndexFile, download::Error>,
    mut write: impl FnMut(&Item, &FileEntry) -> io::Result<()>,
) -> Result<(), Failed> {
    for (item, stream) in manifest.streams() {
        let index = fetch(stream)?;
        find::files(&index, stream, |file| Ok::<_, Failed>(write(item, &file)?))?;
    }
    Ok(())
}

pub(super) fn entry(item: &Name, file: &FileEntry) -> Value {
    json!({
        "item": item,
        "path": String::from_utf8_lossy(&file.path),
        "type": kind(file.kind),
        "size": file.size,
        "mode": mode(file),
        "uid": file.uid,
        "gid": file.gid,
        "mtime": time(file.mtime),
        "link": (!file.link.is_empty()).then(|| String::from_utf8_lossy(&file.link)),
    })
}

pub(super) const fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::HardLink => "hardlink",
        FileKind::Fifo => "fifo",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
    }
}

pub(super) fn mode(file: &FileEntry) -> String {
    format!("{:04o}", file.mode & 0o7777)
}

pub(super) fn time(time: FileTime) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).unwrap_or(0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::testing::{MIB, SMALL, house, noise};
    use crate::format::manifest::{Content, SourceDescription};
    use crate::format::testing::{item, manifest};

    fn file(path: &[u8], number: u64) -> FileEntry {
        let time = FileTime { seconds: i64::try_from(number).unwrap(), nanoseconds: 5 };
        FileEntry {
            path: path.to_vec(),
            kind: FileKind::Symlink,
            size: number,
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            mtime: time,
            ctime: time,
            inode: number,
            device: 1,
            link: b"to".to_vec(),
            member_start: number * 512,
            content_start: number * 512 + 512,
            content_len: 0,
        }
    }

    #[test]
    fn the_document_is_complete_also_after_a_failure() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let house = house(64 * MIB);
        let files = [file(b"a\"\xff", 0), file(b"b", 1)];
        let tree = || SourceDescription::Tree { path: "/".to_owned() };
        let stream = |name: &str| runtime.block_on(house.stream(name, &noise(5000, 1), &files, SMALL));
        let mut manifest =
            manifest(vec![item("one", tree(), Some(stream("one"))), item("two", tree(), Some(stream("two")))]);
        let fetch = |stream: &Stream| runtime.block_on(index::fetch(&house.location, stream));

        let mut expected = serde_json::to_value(&manifest).unwrap();
        let entries = manifest.items.iter().flat_map(|item| files.iter().map(move |file| entry(&item.name, file)));
        expected["files"] = entries.collect();
        let mut out = Vec::new();
        document(&mut out, &manifest, fetch).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
        let mut out = Vec::new();
        text(&mut out, &manifest, fetch).unwrap();
        let lines = String::from_utf8(out).unwrap();
        assert_eq!(lines.lines().count(), 4);
        assert_eq!(lines.lines().nth(3), Some("symlink      0644              1 1970-01-01T00:00:01.000000005Z two/b"));

        // The second index has more files than the manifest says.
        let Content::Stream { stream: Some(two) } = &mut manifest.items[1].content else { unreachable!() };
        two.files = 1;
        let mut out = Vec::new();
        assert!(matches!(document(&mut out, &manifest, fetch), Err(Failed::Index(_))));
        let shown: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((shown["files"].as_array().unwrap().len(), &shown["error"]["class"]), (3, &json!("integrity")));
        assert_eq!(shown["items"], json!(manifest.items));
    }
}
