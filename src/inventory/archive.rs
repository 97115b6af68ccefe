//! Reads one item of a backup: names from its index, objects from its archive.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::ops::Range;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Error, Filter};
use crate::cluster::Scope;
use crate::download::input::Input;
use crate::download::{self, Selection, index, plain};
use crate::format::cluster::Record;
use crate::format::index::{FileEntry, FileKind, Record as IndexRecord};
use crate::format::key::Name;
use crate::format::manifest::{Manifest, SourceDescription, Stream};
use crate::location::Location;
use crate::resources::item;
use crate::resources::list::MAX_OBJECT;
use crate::resources::place::Place;
use crate::tar::{self, shown};

/// Members about the archive itself.
const METADATA: &[u8] = b"metadata/";

/// A member has `apiVersion` and `kind` besides the bytes that the server sent.
const MOST: u64 = MAX_OBJECT as u64 + (4 << 10);

/// The most bytes of a member's headers and padding: its path is short.
const HEADERS: u64 = 8 << 10;

/// A backup item of a cluster's objects.
#[derive(Debug, Clone)]
pub struct Archive {
    pub item: Name,
    /// The backup's record of the item; the default if it has none.
    pub record: Record,
    location: Location,
    stream: Stream,
    index: index::IndexFile,
}

/// A member as listed in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub place: Place,
    /// The size of the object alone.
    pub bytes: u64,
    pub member: Member,
}

/// The place of a member in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub start: u64,
    /// Includes headers and padding.
    pub length: u32,
}

/// An object as it was saved. Its content may be a Secret, so Debug output omits it.
pub struct Object {
    pub place: Place,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("place", &self.place).field("bytes", &self.bytes.len()).finish()
    }
}

/// The backup's items of API objects, with their indexes.
///
/// # Errors
/// When there is none, or an index cannot be read.
pub async fn open(location: &Location, manifest: &Manifest) -> Result<Vec<Archive>, Error> {
    let is_kubernetes = |source: &SourceDescription| matches!(source, SourceDescription::Kubernetes { .. });
    let mut archives = Vec::new();
    for (item, stream) in manifest.streams().filter(|(item, _)| is_kubernetes(&item.source)) {
        archives.push(Archive {
            item: item.name.clone(),
            record: item.kubernetes.as_deref().cloned().unwrap_or_default(),
            location: location.clone(),
            stream: stream.clone(),
            index: index::fetch(location, stream).await?,
        });
    }
    if archives.is_empty() {
        let why = match manifest.items.iter().find(|item| is_kubernetes(&item.source)) {
            Some(item) => format!("the item {} failed, and has none", item.name),
            None => "it has no item of type \"kubernetes\"".to_owned(),
        };
        return Err(Error::NotFound(format!("the backup {} has no API objects: {why}", manifest.id)));
    }
    Ok(archives)
}

impl Archive {
    /// Lists every object in the archive's order: by kind, then by namespace and name. Blocks.
    ///
    /// # Errors
    /// At the first entry of the index that no such archive contains, and when `each` fails.
    pub fn list(&self, mut each: impl FnMut(Listed) -> Result<(), Error>) -> Result<(), Error> {
        let mut records = self.index.open(&self.stream)?;
        while let Some(record) = records.next_record().map_err(|error| self.index.refused(error))? {
            if let IndexRecord::File(file) = record
                && let Some(listed) = listed(&file)?
            {
                each(listed)?;
            }
        }
        Ok(())
    }

    /// Reads the objects of `members`, in their order, which is the archive's; fetches only their ranges. One that cannot be parsed is
    /// `null`. Blocks.
    ///
    /// # Errors
    /// At the first that cannot be read or does not match its path, and when `each` fails.
    pub fn read(
        &self,
        members: &[Member],
        cancel: &CancellationToken,
        mut each: impl FnMut(Object, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if members.is_empty() {
            return Ok(());
        }
        let selection = Selection::Ranges(ranges(members));
        let reader = plain::read(&self.location, &self.stream, self.index.clone(), selection, cancel.clone());
        let progress: download::Progress = std::sync::Arc::new(|_| ());
        let mut input = Input::new(reader, progress);
        let read = read_members((&mut input).chain(&tar::END[..]), members.len(), &mut each);
        match input.failure {
            Some(failure) => Err(failure.into()),
            None => read,
        }
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let archive = self.clone();
        tokio::task::spawn_blocking(move || work(&archive)).await.map_err(|_| download::Error::Stopped)?
    }

    /// The names in the record, for globs that match nothing.
    #[must_use]
    pub fn names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let kind = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
        let kinds = self.record.resources.keys().chain(&self.record.listed).map(kind).collect();
        (self.record.namespaces.clone(), kinds)
    }

    /// The globs of `filter` that match nothing.
    #[must_use]
    pub fn unknown(archives: &[Self], filter: &Filter) -> Vec<String> {
        let (mut namespaces, mut kinds) = (BTreeSet::new(), BTreeSet::new());
        for (more_namespaces, more_kinds) in archives.iter().map(Self::names) {
            namespaces.extend(more_namespaces);
            kinds.extend(more_kinds);
        }
        filter.fits_nothing(&Vec::from_iter(namespaces), &Vec::from_iter(kinds))
    }
}

/// `None`: the member is not an object.
fn listed(file: &FileEntry) -> Result<Option<Listed>, Error> {
    if file.kind == FileKind::Directory || file.path.starts_with(METADATA) {
        return Ok(None);
    }
    let refused = |reason: &str| Error::Refused { member: shown(&file.path), reason: reason.to_owned() };
    let place = Place::of(&file.path).filter(|_| file.kind == FileKind::Regular);
    let place = place.ok_or_else(|| refused("a backup of API objects has no member at this path"))?;
    if file.content_len > MOST {
        return Err(refused("it is larger than any object"));
    }
    let range = file.member();
    let length = u32::try_from(range.end - range.start).ok().filter(|length| u64::from(*length) <= MOST + HEADERS);
    let length = length.ok_or_else(|| refused("its headers are larger than any that Penstock writes"))?;
    let member = Member { start: range.start, length };
    Ok(Some(Listed { place, bytes: file.content_len, member }))
}

/// Neighbouring members form one range.
fn ranges(members: &[Member]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for member in members {
        let end = member.start + u64::from(member.length);
        match ranges.last_mut() {
            Some(last) if last.end == member.start => last.end = end,
            _ => ranges.push(member.start..end),
        }
    }
    ranges
}

fn read_members(
    input: impl std::io::BufRead,
    count: usize,
    each: &mut impl FnMut(Object, Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = tar::Reader::new(input);
    for _ in 0..count {
        let member = reader.next_member().map_err(Error::Archive)?.ok_or(Error::Mismatch)?;
        let place = Place::of(&member.path).filter(|_| member.kind == FileKind::Regular && member.map.is_none());
        let (Some(place), true) = (place, member.size <= MOST) else { return Err(Error::Mismatch) };
        let mut bytes = vec![0; usize::try_from(member.size).unwrap_or_default()];
        let mut filled = 0;
        while filled < bytes.len() {
            let Some((_, length)) = reader.data().map_err(Error::Archive)? else { break };
            let into = &mut bytes[filled..filled + length];
            reader.take(length, |data| into.copy_from_slice(data)).map_err(Error::Archive)?;
            filled += length;
        }
        let refused = |reason: String| Error::Refused { member: shown(&member.path), reason };
        let value = checked(&place, &bytes).map_err(refused)?;
        each(Object { place, bytes }, value)?;
    }
    reader.next_member().map_err(Error::Archive)?.map_or(Ok(()), |_| Err(Error::Mismatch))
}

/// The object in `bytes`, if it is the one that belongs at `place`. `null` if it is, but is nested deeper than a [`Value`] can be parsed:
/// an API server takes more levels. Errors hold nothing of its content but names.
fn checked(place: &Place, bytes: &[u8]) -> Result<Value, String> {
    let parsed: Result<Value, _> = serde_json::from_slice(bytes);
    let value = match parsed {
        Ok(value) => value,
        Err(error) => {
            let item = item::read(bytes, &item::Kind { api_version: String::new(), kind: String::new() });
            let metadata = item.map(|item| item.metadata).ok();
            let is_itself =
                metadata.is_some_and(|it| (it.name, it.namespace) == (place.name.clone(), place.namespace.clone()));
            let reason = || format!("it is not JSON at line {}, column {}", error.line(), error.column());
            return if is_itself { Ok(Value::Null) } else { Err(reason()) };
        }
    };
    check(place, &value)?;
    Ok(value)
}

fn check(place: &Place, value: &Value) -> Result<(), String> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let api_version = text("/apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let filed = &place.filed;
    let rows = [
        ("name", text("/metadata/name"), place.name.as_str(), true),
        ("namespace", text("/metadata/namespace"), place.namespace.as_str(), true),
        ("group", group, filed.group(), true),
        ("version", version, filed.version.as_str(), !filed.version.is_empty()),
    ];
    for (what, found, expected, matters) in rows {
        if matters && found != expected {
            let found: String = found.chars().take(80).collect();
            return Err(format!("its object has the {what} {found:?}; expected {expected:?}, as in its path"));
        }
    }
    debug_assert!(filed.scope == Scope::Namespaced || place.namespace.is_empty());
    Ok(())
}

/// The wanted object: `KIND/NAMESPACE/NAME`, or `KIND/NAME` at the cluster's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    kind: String,
    namespace: String,
    name: String,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
        let expected = || "expected KIND/NAMESPACE/NAME, or KIND/NAME for a cluster-scoped object".to_owned();
        if parts.iter().any(String::is_empty) {
            return Err(expected());
        }
        match <[String; 3]>::try_from(parts) {
            Ok([kind, namespace, name]) => Ok(Self { kind, namespace, name }),
            Err(parts) => {
                let [kind, name] = <[String; 2]>::try_from(parts).map_err(|_| expected())?;
                Ok(Self { kind, namespace: String::new(), name })
            }
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind}/{name}") } else { write!(f, "{kind}/{namespace}/{name}") }
    }
}

/// The most objects of that name that are read to learn their kind.
const MOST_CANDIDATES: usize = 256;

/// The wanted object, by `plural.group`, plural, or its `kind`. Blocks.
///
/// # Errors
/// When there is none, or several match.
pub fn find(archives: &[Archive], wanted: &Wanted, cancel: &CancellationToken) -> Result<(Object, Value), Error> {
    let mut found: Vec<(Object, Value)> = Vec::new();
    for archive in archives {
        let (mut named, mut others) = (Vec::new(), Vec::new());
        archive.list(|listed| {
            let place = &listed.place;
            if place.namespace == wanted.namespace && place.name == wanted.name {
                let filed = &place.filed;
                let is_named =
                    [&filed.resource, filed.plural(), filed.to_string().as_str()].contains(&wanted.kind.as_str());
                let list = if is_named { &mut named } else { &mut others };
                if list.len() < MOST_CANDIDATES {
                    list.push(listed);
                }
            }
            Ok(())
        })?;
        let by_kind = named.is_empty();
        let candidates = if by_kind { others } else { named };
        let members: Vec<Member> = candidates.iter().map(|listed| listed.member).collect();
        let mut places = candidates.into_iter().map(|listed| listed.place);
        archive.read(&members, cancel, |object, value| {
            if places.next().as_ref() != Some(&object.place) {
                return Err(Error::Mismatch);
            }
            if !by_kind || value["kind"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case(&wanted.kind)) {
                found.push((object, value));
            }
            Ok(())
        })?;
    }
    match found.len() {
        0 => Err(Error::NotFound(format!(
            "the backup has no object {wanted}; `penstock kubernetes objects` lists what it has"
        ))),
        1 => Ok(found.remove(0)),
        _ => {
            let kinds: Vec<String> = found.iter().map(|(object, _)| object.place.filed.to_string()).collect();
            Err(Error::Usage(format!("several objects match {wanted}; name the kind as one of {}", kinds.join(", "))))
        }
    }
}
