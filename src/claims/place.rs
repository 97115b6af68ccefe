//! Where the kubelet has mounted a volume: what to look for, and what to make of what is there.
//!
//! | volume | below `ROOT/pods/UID/` | must be a mount |
//! |---|---|---|
//! | of CSI, or migrated to it | `volumes/kubernetes.io~csi/NAME/mount` | yes |
//! | local | `volumes/kubernetes.io~local-volume/NAME` | yes |
//! | of a plugin in Kubernetes (NFS, …) | `volumes/kubernetes.io~nfs/NAME` | yes |
//! | of a flex plugin | `volumes/VENDOR~DRIVER/NAME` | no: some only make a folder |
//! | emptyDir | `volumes/kubernetes.io~empty-dir/NAME` | only in memory |
//! | block device | `volumeDevices/PLUGIN/NAME`, a link to a device | |
//! | hostPath | its own path, below one of `host_paths` | no |
//!
//! NAME is the persistent volume's, or the pod's own where there is no claim. Where a plugin may have migrated, both places are looked for.
//! Exactly one must be there, of all plugins' folders: a second one is left of something, and nobody can say which of them is true.
//!
//! A folder that is no mount although it should be is refused: without mount propagation into the agent's container, or with a mount that
//! was lost, it is empty, and the backup of an empty folder would take the place of the last good one.
//!
//! Names are checked before they become part of a path, and no link is followed but a device's, into `/dev` or the kubelet's `plugins`.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::objects::{Backing, Origin, Volume};
use super::plugins;
use crate::format::claim::{is_label, is_subdomain, shown};

/// How a volume is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// As a tree.
    Folder,
    /// A block device, as a file.
    Device,
}

/// A place that a volume may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The plugin's folder.
    pub folder: String,
    pub must_be_mount: bool,
}

/// Where to look for a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Kubelet {
        pod_uid: String,
        name: String,
        form: Form,
        /// Empty: any plugin's folder will do.
        candidates: Vec<Candidate>,
    },
    Host {
        path: PathBuf,
        /// The folder of `host_paths` that it is below.
        below: PathBuf,
    },
}

/// Why a volume has no place, or nothing that can be saved is there.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the {what} {name:?} is none that Kubernetes makes")]
    Name { what: &'static str, name: String },
    #[error("the folder {path:?} is below none of host_paths")]
    Host { path: String },
    #[error("looked for {}, and found {}", either(.looked_for), found(.instead))]
    Nothing { looked_for: Vec<PathBuf>, instead: Vec<PathBuf> },
    #[error("expected the volume in one place, and found {}", list(.0))]
    Several(Vec<PathBuf>),
    #[error("{} is not a mount: it is what lies below the volume", .0.display())]
    NotMounted(PathBuf),
    #[error("{} is {found}; expected {expected}", .path.display())]
    Kind { path: PathBuf, found: &'static str, expected: &'static str },
    #[error("{} leads to {}; expected a device in /dev or in the kubelet's plugins", .path.display(), .target.display())]
    Link { path: PathBuf, target: PathBuf },
    #[error("could not look at {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
}

impl Fault {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Nothing { instead, .. } if instead.is_empty() => Some(
                "if no volume is found: kubelet_root must be the kubelet's --root-dir, and its folder pods be mounted into the agent's pod at the same path",
            ),
            Self::Several(_) => {
                Some("a kubelet left one of them behind: find the mount with findmnt, and remove the other folder")
            }
            Self::NotMounted(_) => {
                Some("mount kubelet_root into the agent's pod with mountPropagation: HostToContainer")
            }
            Self::Host { .. } => Some("add the folder above it to host_paths, or exclude the claim"),
            Self::Nothing { .. } | Self::Kind { .. } | Self::Link { .. } => None,
            Self::Name { .. } => Some("look at the object; somebody wrote it by hand"),
            Self::Unreadable { .. } => Some("if the volume's server is away, it is saved again when that is back"),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn either(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

fn found(paths: &[PathBuf]) -> String {
    if paths.is_empty() { "nothing".to_owned() } else { list(paths) }
}

/// What is at a path. A link is itself, not what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Missing,
    Folder {
        /// `None`: the kernel does not say.
        is_mount: Option<bool>,
    },
    Link(PathBuf),
    Device,
    Other,
}

/// Looks at the host's files ([`super::look`]).
pub trait Look {
    /// # Errors
    /// When it cannot be told what is there.
    fn look(&self, path: &Path) -> io::Result<Seen>;

    /// The names in a folder; empty where there is none.
    ///
    /// # Errors
    /// When it cannot be listed.
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;
}

impl Place {
    /// The place of a claim's persistent volume.
    ///
    /// # Errors
    /// When a name is not one, or the volume is on the host elsewhere than in `host_paths`.
    pub fn of_volume(pod_uid: &str, volume: &Volume, form: Form, host_paths: &[PathBuf]) -> Result<Self, Fault> {
        let candidates = match &volume.spec.backing {
            Backing::Csi => vec![mounted(plugins::CSI)],
            Backing::Local => vec![mounted(plugins::LOCAL)],
            Backing::InTree(plugin) if plugin.migrates => vec![mounted(plugins::CSI), mounted(plugin.plugin)],
            Backing::InTree(plugin) => vec![mounted(plugin.plugin)],
            Backing::Flex(driver) => vec![flex(driver)?],
            Backing::Unknown => Vec::new(),
            Backing::HostPath(path) => return host(path, host_paths),
        };
        let name = checked("persistent volume", &volume.metadata.name, is_subdomain)?;
        Ok(Self::Kubelet { pod_uid: checked("pod's UID", pod_uid, is_uid)?, name, form, candidates })
    }

    /// The place of a pod's volume that has no claim.
    ///
    /// # Errors
    /// When a name is not one, or such a volume is nowhere.
    pub fn of_pod(pod_uid: &str, volume: &str, origin: &Origin) -> Result<Self, Fault> {
        let candidate = match origin {
            Origin::EmptyDir { in_memory } => Candidate { must_be_mount: *in_memory, ..mounted(plugins::EMPTY_DIR) },
            Origin::InlineCsi => mounted(plugins::CSI),
            Origin::Inline(plugin) => match plugins::IN_TREE.iter().find(|known| known.plugin == plugin) {
                Some(known) => mounted(known.plugin),
                None => flex(plugin)?,
            },
            _ => return Err(Fault::Name { what: "volume", name: shown(volume) }),
        };
        let mut candidates = vec![candidate];
        if plugins::IN_TREE.iter().any(|known| known.migrates && plugins::folder(known.plugin) == candidates[0].folder)
        {
            candidates.insert(0, mounted(plugins::CSI));
        }
        let name = checked("volume", volume, is_label)?;
        Ok(Self::Kubelet { pod_uid: checked("pod's UID", pod_uid, is_uid)?, name, form: Form::Folder, candidates })
    }

    #[must_use]
    pub const fn form(&self) -> Form {
        match self {
            Self::Kubelet { form, .. } => *form,
            Self::Host { .. } => Form::Folder,
        }
    }

    /// The one path at which the volume is.
    ///
    /// # Errors
    /// When nothing is there, or more than one thing, or not what it should be.
    pub fn resolve(&self, kubelet_root: &Path, host: &dyn Look) -> Result<PathBuf, Fault> {
        match self {
            Self::Host { path, below } => host_folder(path, below, host),
            Self::Kubelet { pod_uid, name, form, candidates } => {
                let pod = kubelet_root.join("pods").join(pod_uid);
                let above = pod.join(match form {
                    Form::Folder => "volumes",
                    Form::Device => "volumeDevices",
                });
                let at = |folder: &str| path_in(&above, folder, name, *form);
                let (candidate, path, seen) = only_one(&above, candidates, &at, host)?;
                match form {
                    Form::Folder => folder(path, &seen, candidate.is_some_and(|known| known.must_be_mount)),
                    Form::Device => device(path, seen, kubelet_root, host),
                }
            }
        }
    }
}

/// CSI mounts below the volume's folder, and keeps a file of its own beside that.
fn path_in(above: &Path, folder: &str, name: &str, form: Form) -> PathBuf {
    let path = above.join(folder).join(name);
    if form == Form::Folder && folder == plugins::folder(plugins::CSI) { path.join("mount") } else { path }
}

type Found<'a> = (Option<&'a Candidate>, PathBuf, Seen);

/// Looks into every plugin's folder.
fn only_one<'a>(
    above: &Path,
    candidates: &'a [Candidate],
    at: &dyn Fn(&str) -> PathBuf,
    host: &dyn Look,
) -> Result<Found<'a>, Fault> {
    let listed = host.list(above).map_err(|error| Fault::Unreadable { path: above.to_owned(), error })?;
    let mut found: Vec<Found<'a>> = Vec::new();
    for folder in listed.iter().filter_map(|folder| folder.to_str()) {
        let path = at(folder);
        match host.look(&path) {
            Ok(Seen::Missing) => {}
            Ok(seen) => found.push((candidates.iter().find(|candidate| candidate.folder == folder), path, seen)),
            Err(error) => return Err(Fault::Unreadable { path, error }),
        }
    }
    let mut paths: Vec<PathBuf> = found.iter().map(|(_, path, _)| path.clone()).collect();
    paths.sort();
    match (found.pop(), found.is_empty()) {
        (Some(_), false) => Err(Fault::Several(paths)),
        (Some(one), true) if one.0.is_some() || candidates.is_empty() => Ok(one),
        _ if candidates.is_empty() => Err(Fault::Nothing { looked_for: vec![at("*")], instead: paths }),
        _ => {
            let looked_for = candidates.iter().map(|candidate| at(&candidate.folder)).collect();
            Err(Fault::Nothing { looked_for, instead: paths })
        }
    }
}

fn folder(path: PathBuf, seen: &Seen, must_be_mount: bool) -> Result<PathBuf, Fault> {
    match seen {
        Seen::Folder { is_mount: Some(false) } if must_be_mount => Err(Fault::NotMounted(path)),
        Seen::Folder { .. } => Ok(path),
        other => Err(Fault::Kind { path, found: words(other), expected: "a folder" }),
    }
}

fn device(path: PathBuf, seen: Seen, kubelet_root: &Path, host: &dyn Look) -> Result<PathBuf, Fault> {
    let target = match seen {
        Seen::Device => return Ok(path),
        Seen::Link(target) => target,
        other => return Err(Fault::Kind { path, found: words(&other), expected: "a link to a block device" }),
    };
    let is_plain = target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let is_inside = target.starts_with("/dev") || target.starts_with(kubelet_root.join("plugins"));
    if !is_plain || !is_inside {
        return Err(Fault::Link { path, target });
    }
    match host.look(&target) {
        Ok(Seen::Device) => Ok(target),
        Ok(Seen::Missing) => Err(Fault::Nothing { looked_for: vec![target], instead: Vec::new() }),
        Ok(other) => Err(Fault::Kind { path: target, found: words(&other), expected: "a block device" }),
        Err(error) => Err(Fault::Unreadable { path: target, error }),
    }
}

/// No component below the operator's folder may be a link: whoever writes there must not choose what the node backs up.
fn host_folder(path: &Path, below: &Path, host: &dyn Look) -> Result<PathBuf, Fault> {
    let mut at = below.to_owned();
    for part in path.strip_prefix(below).unwrap_or(path) {
        at.push(part);
        match host.look(&at) {
            Ok(Seen::Folder { .. }) => {}
            Ok(Seen::Missing) => return Err(Fault::Nothing { looked_for: vec![at], instead: Vec::new() }),
            Ok(other) => return Err(Fault::Kind { path: at, found: words(&other), expected: "a folder" }),
            Err(error) => return Err(Fault::Unreadable { path: at, error }),
        }
    }
    Ok(at)
}

const fn words(seen: &Seen) -> &'static str {
    match seen {
        Seen::Missing => "missing",
        Seen::Folder { .. } => "a folder",
        Seen::Link(_) => "a symbolic link",
        Seen::Device => "a block device",
        Seen::Other => "neither a folder nor a device",
    }
}

fn mounted(plugin: &str) -> Candidate {
    Candidate { folder: plugins::folder(plugin), must_be_mount: true }
}

fn flex(driver: &str) -> Result<Candidate, Fault> {
    let part = |part: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(fits)
    };
    let is_driver =
        |driver: &str| driver.len() <= 200 && driver.splitn(3, '/').count() <= 2 && driver.split('/').all(part);
    let driver = checked("flex driver", driver, is_driver)?;
    Ok(Candidate { folder: plugins::folder(&driver), must_be_mount: false })
}

fn host(path: &str, host_paths: &[PathBuf]) -> Result<Place, Fault> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let wanted = Path::new(path);
    let is_path = wanted.is_absolute() && wanted.components().all(plain) && path.len() <= 1024 && !path.contains('\0');
    let below = host_paths.iter().find(|base| is_path && wanted.starts_with(base) && wanted != base.as_path());
    match below {
        Some(below) => Ok(Place::Host { path: wanted.to_owned(), below: below.clone() }),
        None => Err(Fault::Host { path: shown(path) }),
    }
}

fn is_uid(uid: &str) -> bool {
    (1..=64).contains(&uid.len()) && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !uid.starts_with('-')
}

fn checked(what: &'static str, name: &str, fits: impl FnOnce(&str) -> bool) -> Result<String, Fault> {
    if fits(name) { Ok(name.to_owned()) } else { Err(Fault::Name { what, name: shown(name) }) }
}

#[cfg(test)]
mod tests;
