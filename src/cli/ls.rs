//! `penstock ls`: a folder of a backup's trees, written while its index is read.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::file_list::{entry, kind, time};
use super::key::{Need, unlock};
use super::list::ItemName;
use super::output::{self, Done};
use super::rows::{Failed, Out, Words, fetcher, written};
use super::{Failure, read};
use crate::config::Config;
use crate::error::{Class, Report};
use crate::find::files;
use crate::find::folder::{Depth, Folder, Shown};
use crate::format::index::{FileEntry, FileKind};
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, SourceDescription, Stream};
use crate::nearest::nearest;
use crate::pattern::printable;

pub(super) async fn run(
    config: &Config,
    args: &args::Ls,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let catalog = read::open(config, (&args.place, &args.key), &args.backup, cancel)?;
    let mut manifest = read::find(&catalog, &args.backup).await?;
    unlock(&catalog.location, &mut manifest, Need::Index)?;
    if let Some(item) = &args.item {
        let mut wanted = ItemName::new(item);
        if !wanted.is_in(&manifest) {
            return Err(wanted.missing(&format!("the backup {} does not have", manifest.id)).into());
        }
        manifest.items.retain(|one| one.name == *item);
    }
    let json = json!({
        "id": manifest.id, "job": manifest.job, "node": manifest.node, "location": catalog.location.name(),
        "path": args.path,
    });
    let head = Words { json, ..Words::default() };
    let depth = if args.recursive { Depth::All } else { Depth::One };
    let only_tree = matches!(&*manifest.items, [item] if item.source.is_tree());
    let fetch = fetcher(catalog.location);
    let Some(path) = args.path.clone().or_else(|| (only_tree || args.recursive).then(String::new)) else {
        return written(format, ("files", head), move |rows| items(&manifest, rows)).await;
    };
    let looked = look(&manifest, &path, depth)?;
    let work = move |rows: &mut Out| {
        let (mut found, mut near) = (false, None::<String>);
        for (item, stream, mut folders) in looked {
            files(&fetch(&stream)?, &stream, |file| {
                let shown = folders.iter_mut().find_map(|folder| folder.shows(&file));
                match shown {
                    Some(Shown::File) => rows.row(|| line(&item, &file), || entry(&item, &file)),
                    Some(Shown::Folder(path)) => rows.row(|| implied_line(&item, &path), || implied(&item, &path)),
                    None => Ok(()),
                }
                .map_err(Failed::from)
            })?;
            found |= folders.iter().any(Folder::found);
            let meant = folders.iter().filter_map(Folder::nearest).map(|path| format!("{item}/{path}"));
            // The deeper, the more of the path is there.
            near = near.into_iter().chain(meant).max_by_key(|path| path.matches('/').count());
        }
        if found { Ok(Words::default()) } else { Err(Failed::Report(not_there(&manifest, &path, near))) }
    };
    written(format, ("files", head), work).await
}

type Looked = (Name, Stream, Vec<Folder>);

/// What to look for in each tree: the path as it is, below the item's name, and below the source's path on the node.
fn look(manifest: &Manifest, path: &str, depth: Depth) -> Result<Vec<Looked>, Failure> {
    let malformed = |error: crate::pattern::Malformed| Failure::Usage(error.to_string());
    let mut looked = Vec::new();
    for (item, stream) in manifest.streams().filter(|(item, _)| item.source.is_tree()) {
        let source = match &item.source {
            SourceDescription::Tree { path } if !path.trim_matches('/').is_empty() => Some(path.trim_end_matches('/')),
            _ => None,
        };
        let below = |folder: &str| {
            let rest = path.strip_prefix(folder)?;
            // A slash says that it is this folder, not any.
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("/{}", rest.trim_start_matches('/')))
        };
        let others = [below(item.name.as_str()), source.and_then(below)];
        let paths = [path.to_owned()].into_iter().chain(others.into_iter().flatten());
        let folders = paths.map(|path| Folder::new(&path, depth)).collect::<Result<_, _>>().map_err(malformed)?;
        looked.push((item.name.clone(), stream.clone(), folders));
    }
    Ok(looked)
}

fn not_there(manifest: &Manifest, path: &str, near: Option<String>) -> Report {
    let names = manifest.items.iter().map(|item| item.name.to_string());
    let near = near.or_else(|| nearest(path.trim_matches('/'), names));
    let meant = near.map_or_else(String::new, |near| format!("; did you mean {}?", printable(near.as_bytes())));
    Report::new(Class::NotFound, format!("the backup {} has no {path:?}{meant}", manifest.id))
        .remedy("`penstock ls BACKUP` shows the root, `penstock find GLOB` other backups that have it")
}

/// The items of a backup.
fn items(manifest: &Manifest, rows: &mut Out) -> Result<Words, Failed> {
    for item in &manifest.items {
        let size = match &item.content {
            Content::Stream { stream } => stream.as_ref().map(|stream| stream.plain_bytes),
            Content::EbsSnapshot { snapshot } => snapshot.as_ref().map(|snapshot| u64::from(snapshot.size_gib) << 30),
        };
        rows.row(|| item_line(item, size), || item_entry(item, size))?;
    }
    Ok(Words::default())
}

fn item_line(item: &Item, size: Option<u64>) -> String {
    let size = size.map_or_else(|| "failed".to_owned(), output::size);
    let slash = if item.source.is_tree() { "/" } else { "" };
    format!("item {size:>12}  {}{slash}  ({})", item.name, printable(item.source.to_string().as_bytes()))
}

fn item_entry(item: &Item, size: Option<u64>) -> Value {
    json!({ "item": item.name, "type": "item", "size": size, "source": item.source, "outcome": item.outcome })
}

/// Type and mode, as `ls -l` shows them.
fn permissions(file: &FileEntry) -> String {
    let letter = match file.kind {
        FileKind::Regular | FileKind::HardLink => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    };
    let bit = |at: u32, letter: char| if file.mode >> at & 1 == 1 { letter } else { '-' };
    let mut text = String::from(letter);
    for (special, shift) in [(11, 6), (10, 3), (9, 0)] {
        text.extend([bit(shift + 2, 'r'), bit(shift + 1, 'w')]);
        let letter = if shift == 0 { 't' } else { 's' };
        text.push(match (file.mode >> special & 1, file.mode >> shift & 1) {
            (0, _) => bit(shift, 'x'),
            (_, 0) => letter.to_ascii_uppercase(),
            _ => letter,
        });
    }
    text
}

fn line(item: &Name, file: &FileEntry) -> String {
    let FileEntry { uid, gid, size, path, link, .. } = file;
    let time = time(file.mtime).map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let time = time.unwrap_or_default();
    let link = match file.kind {
        FileKind::Symlink => format!(" -> {}", printable(link)),
        FileKind::HardLink => format!(" = {item}/{}", printable(link)),
        _ => String::new(),
    };
    let slash = if file.kind == FileKind::Directory { "/" } else { "" };
    format!("{} {uid:>5} {gid:>5} {size:>14} {time:<19} {item}/{}{slash}{link}", permissions(file), printable(path))
}

fn implied_line(item: &Name, path: &[u8]) -> String {
    format!("d????????? {:>5} {:>5} {:>14} {:<19} {item}/{}/", "", "", "", "", printable(path))
}

fn implied(item: &Name, path: &[u8]) -> Value {
    json!({ "item": item, "path": String::from_utf8_lossy(path), "type": kind(FileKind::Directory) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::FileTime;

    #[test]
    fn modes_are_shown_as_ls_does() {
        let file = |kind, mode| FileEntry {
            path: b"a\x1b[2J\nb".to_vec(),
            kind,
            size: 5,
            mode,
            uid: 0,
            gid: 42,
            mtime: FileTime { seconds: 1, nanoseconds: 5 },
            ctime: FileTime::default(),
            inode: 0,
            device: 0,
            link: b"to".to_vec(),
            member_start: 0,
            content_start: 512,
            content_len: 0,
        };
        for (kind, mode, expected) in [
            (FileKind::Regular, 0o644, "-rw-r--r--"),
            (FileKind::Regular, 0o100_755, "-rwxr-xr-x"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Regular, 0o4711, "-rws--x--x"),
            (FileKind::Regular, 0o6600, "-rwS--S---"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(permissions(&file(kind, mode)), expected, "{mode:o}");
        }
        let item = Name::new("pods").unwrap();
        assert_eq!(
            line(&item, &file(FileKind::Symlink, 0o777)),
            "lrwxrwxrwx     0    42              5 1970-01-01 00:00:01 pods/a\\u{1b}[2J\\nb -> to"
        );
    }
}
