//! A model of backups: random trees, random edits, full and incremental runs, pruning, crashes of both. After every run, every backup
//! that is kept restores bit for bit to what the tree was; after every pruning, nothing is in the bucket that no manifest names; and in the
//! end no upload is in progress.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock::catalog::{Catalog, Scope};
use penstock::config::{self, Concurrency, Retention, SignPayload, Source, SourceKind, Upload};
use penstock::download;
use penstock::format::codec::{Codec, Compression};
use penstock::format::key::{BackupId, Name, ObjectKey};
use penstock::format::manifest::Manifest;
use penstock::job::{self, Hooks, Policy, Progress, Reuse, Spec};
use penstock::location::{Location, memory};
use penstock::metrics::Metrics;
use penstock::process::Process;
use penstock::prune;
use penstock::restore::{self, restore};
use penstock::store::Store;
use penstock::store::memory::MemoryStore;
use penstock::upload::sweep::{Mode, Reach, sweep};
use penstock::verify::{Depth, verify};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::dying::Dying;
use crate::tar::{Facility, assert_same, facts};

const MIB: u64 = 1 << 20;

/// Files of a group of small ones, of several groups, and of several chunks.
const SIZES: [usize; 7] = [0, 100, 5_000, 40_000, 200_000, 700_000, 2_500_000];

#[derive(Debug, Clone)]
enum Step {
    Write {
        file: u8,
        size: usize,
        seed: u64,
    },
    /// A few bytes in the middle; the size stays.
    Overwrite {
        file: u8,
        seed: u64,
    },
    Truncate {
        file: u8,
    },
    Punch {
        file: u8,
    },
    Remove {
        file: u8,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Link {
        from: u8,
        to: u8,
    },
    Symlink {
        file: u8,
        target: u8,
    },
    Mode {
        file: u8,
        mode: u32,
    },
    DefaultAcl {
        directory: u8,
    },
    Backup {
        reuse: Reuse,
        compression: Compression,
        min_live: u16,
    },
    /// The process dies with its n-th request.
    Crash {
        requests: u32,
    },
    /// Pruning; the process dies with the n-th request, where there is a number.
    Prune {
        keep_last: u32,
        requests: Option<u32>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0_u8..24;
    let reuse = prop_oneof![6 => Just(Reuse::Files), 2 => Just(Reuse::Chunks), 1 => Just(Reuse::Nothing)];
    let compression = prop_oneof![3 => Just(Compression::Zstd { level: 1 }), 1 => Just(Compression::None)];
    let min_live = prop_oneof![3 => Just(300_u16), 1 => Just(0), 1 => Just(900)];
    prop_oneof![
        4 => (file(), 0..SIZES.len(), any::<u64>()).prop_map(|(file, size, seed)| Step::Write { file, size, seed }),
        4 => (file(), any::<u64>()).prop_map(|(file, seed)| Step::Overwrite { file, seed }),
        1 => file().prop_map(|file| Step::Truncate { file }),
        1 => file().prop_map(|file| Step::Punch { file }),
        2 => file().prop_map(|file| Step::Remove { file }),
        2 => (file(), file()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => (file(), file()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => (file(), file()).prop_map(|(file, target)| Step::Symlink { file, target }),
        1 => (file(), 0..0o777_u32).prop_map(|(file, mode)| Step::Mode { file, mode }),
        1 => (0..4_u8).prop_map(|directory| Step::DefaultAcl { directory }),
        6 => (reuse, compression, min_live)
            .prop_map(|(reuse, compression, min_live)| Step::Backup { reuse, compression, min_live }),
        1 => (0..12_u32).prop_map(|requests| Step::Crash { requests }),
        1 => (1..4_u32, prop::option::of(0..8_u32))
            .prop_map(|(keep_last, requests)| Step::Prune { keep_last, requests }),
    ]
}

/// The tree, the store, and what must come back.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) kept: Vec<(Manifest, Facility)>,
}

pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        let world =
            Self { folder: tempfile::tempdir().unwrap(), store: Arc::new(MemoryStore::new()), kept: Vec::new() };
        for directory in 0..4 {
            fs::create_dir_all(world.directory(directory)).unwrap();
        }
        for file in 0..16 {
            fs::write(world.path(file), noise(SIZES[3], file.into())).unwrap();
        }
        world
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    fn directory(&self, number: u8) -> PathBuf {
        self.tree().join(["", "a", "a/b", "c"][usize::from(number) % 4])
    }

    pub(crate) fn path(&self, file: u8) -> PathBuf {
        self.directory(file).join(format!("file-{file:02}"))
    }

    /// Edits may meet a file that is not there, or a link into nowhere: then they change nothing.
    fn edit(&self, step: &Step) -> std::io::Result<()> {
        match step {
            Step::Write { file, size, seed } => fs::write(self.path(*file), noise(SIZES[*size], *seed)),
            Step::Overwrite { file, seed } => {
                let file = File::options().write(true).open(self.path(*file))?;
                let size = file.metadata()?.len();
                let at = if size > 16 { seed % (size - 16) } else { 0 };
                file.write_all_at(&noise(usize::try_from(size.min(16)).unwrap(), *seed), at)
            }
            Step::Truncate { file } => {
                let file = File::options().write(true).open(self.path(*file))?;
                file.set_len(file.metadata()?.len() / 2)
            }
            Step::Punch { file } => {
                let file = File::options().write(true).open(self.path(*file))?;
                let size = file.metadata()?.len();
                let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                let (from, length) = (size / 4 / 4096 * 4096, (size / 2 / 4096 * 4096).max(4096));
                Ok(rustix::fs::fallocate(&file, flags, from, length)?)
            }
            Step::Remove { file } => fs::remove_file(self.path(*file)),
            Step::Rename { from, to } => fs::rename(self.path(*from), self.path(*to)),
            Step::Link { from, to } => fs::hard_link(self.path(*from), self.path(*to)),
            Step::Symlink { file, target } => std::os::unix::fs::symlink(format!("file-{target:02}"), self.path(*file)),
            Step::Mode { file, mode } => fs::set_permissions(self.path(*file), fs::Permissions::from_mode(*mode)),
            Step::DefaultAcl { directory } => {
                const NONE: u32 = u32::MAX;
                let acl =
                    crate::tar::acl(&[(1, 7, NONE), (4, 5, NONE), (8, 2, 54_322), (0x10, 7, NONE), (0x20, 1, NONE)]);
                let (path, name) = (self.directory(*directory), c"system.posix_acl_default");
                if rustix::fs::removexattr(&path, name).is_err() {
                    rustix::fs::setxattr(&path, name, &acl, rustix::fs::XattrFlags::empty())?;
                }
                Ok(())
            }
            Step::Backup { .. } | Step::Crash { .. } | Step::Prune { .. } => Ok(()),
        }
    }

    /// The state directory, with the journal of uploads.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    async fn prune(&mut self, keep_last: u32, requests: Option<u32>) {
        let dying = Dying::new(&self.store, requests.unwrap_or(u32::MAX));
        let location = self.location(dying.store.clone());
        let context = prune::Context { catalog: Catalog::new(&location), grace: Duration::ZERO };
        let chain = location.chain(&name("model"));
        let retention = Retention { keep_last: Some(keep_last), ..Retention::default() };
        let rules = prune::Rules { retention: Some(retention), zone: jiff::tz::TimeZone::UTC };
        let cancel = CancellationToken::new();
        // What an unfinished backup stored is kept for a day at least, whatever the grace period.
        let (now, mut whole) = (jiff::Timestamp::now() + Duration::from_hours(48), false);
        tokio::select! {
            pruned = prune::prune(&context, &chain, &rules, now, &cancel) => {
                assert_eq!(pruned.unwrap().failures.count, 0);
                whole = true;
            }
            () = dying.dead() => {}
        }
        let entries = Catalog::new(&self.location(self.store.clone())).entries(Scope::default()).await.unwrap();
        self.kept.retain(|(manifest, _)| entries.iter().any(|entry| entry.id == manifest.id));
        if whole {
            assert_eq!(self.kept.len(), entries.len());
            let named: HashSet<ObjectKey> =
                self.kept.iter().flat_map(|(manifest, _)| manifest.named().cloned()).collect();
            let manifests: HashSet<ObjectKey> = entries.into_iter().map(|entry| entry.key).collect();
            let there = self.store.list("", None).await.unwrap().objects.into_iter().map(|object| object.key);
            let unnamed: Vec<ObjectKey> =
                there.filter(|key| !named.contains(key) && !manifests.contains(key)).collect();
            assert_eq!(unnamed, []);
        }
        self.check().await;
    }

    /// Sweeps until nobody holds an entry of a run that died, and then nothing may be left.
    pub(crate) async fn sweep(&self) {
        let location = self.location(self.store.clone());
        let journal = self.state().join("uploads");
        for _ in 0..1000 {
            let (locations, none) = (std::slice::from_ref(&location), BTreeSet::new());
            sweep(&self.state(), locations, &none, Mode::Abort, Reach::Bucket).await.unwrap();
            if fs::read_dir(&journal).map_or(0, Iterator::count) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(fs::read_dir(&journal).map_or(0, Iterator::count), 0);
        assert!(self.store.list_uploads("").await.unwrap().is_empty());
    }

    pub(crate) fn location(&self, store: Arc<dyn Store>) -> Location {
        let upload = Upload {
            part_size: 5 * MIB,
            concurrency: Concurrency::AtMost(2),
            object_size: 6 * MIB,
            sign_payload: SignPayload::Auto,
        };
        let config = config::Location { name: "primary".to_owned(), upload, ..memory::config("fleet") };
        let process = Process::new(64 * MIB, 2, &self.state(), Metrics::new());
        Location::new(Arc::new(memory::Memory::new(store)), &config, (&name("c"), &name("n")), &process)
    }

    pub(crate) fn spec(&self, reuse: Reuse, compression: Compression, min_live: u16) -> Spec {
        let path = self.tree().to_str().unwrap().to_owned();
        let kind = SourceKind::Tree { path, exclude: Vec::new(), one_file_system: false };
        Spec {
            job: name("model"),
            sources: vec![Source { name: name("tree"), kind }],
            codec: Codec { compression },
            timeout: None,
            hooks: Hooks::default(),
            // The steps do not wait for seconds to pass; the clock ticks between them.
            parent: Policy { reuse, min_live, settle: Duration::ZERO, ..Policy::default() },
            allow_plain: false,
        }
    }

    async fn step(&mut self, step: &Step) {
        // What is changed after a run has another time than what was changed before it.
        tick(self.folder.path());
        let cancel = CancellationToken::new();
        let progress = Arc::new(Progress::default());
        match step {
            Step::Backup { reuse, compression, min_live } => {
                let before = facts(&self.tree());
                let location = self.location(self.store.clone());
                let spec = self.spec(*reuse, *compression, *min_live);
                let manifest = job::run(&location, &spec, &progress, &cancel).await.unwrap().manifest;
                assert_eq!(manifest.warnings.list, []);
                self.kept.push((manifest, before));
                self.check().await;
            }
            Step::Crash { requests } => {
                let dying = Dying::new(&self.store, *requests);
                let location = self.location(dying.store.clone());
                let spec = self.spec(Reuse::Files, Compression::Zstd { level: 1 }, 300);
                let before = facts(&self.tree());
                tokio::select! {
                    result = job::run(&location, &spec, &progress, &cancel) => {
                        self.kept.push((result.unwrap().manifest, before));
                    }
                    () = dying.dead() => {
                        // One that died after its commit and before it read the manifest back has left a backup.
                        let catalog = Catalog::new(&self.location(self.store.clone()));
                        let entries = catalog.entries(Scope::default()).await.unwrap();
                        let unknown = |id| self.kept.iter().all(|(manifest, _)| manifest.id != id);
                        if let Some(entry) = entries.into_iter().find(|entry| unknown(entry.id.clone())) {
                            self.kept.push((catalog.manifest(&entry).await.unwrap(), before));
                        }
                    }
                }
                self.check().await;
            }
            Step::Prune { keep_last, requests } => self.prune(*keep_last, *requests).await,
            // Its failure is a step that has changed nothing.
            edit => drop(self.edit(edit)),
        }
    }

    pub(crate) async fn check(&self) {
        let location = self.location(self.store.clone());
        let (cancel, silent): (_, download::Progress) = (CancellationToken::new(), Arc::new(|_| {}));
        for (manifest, expected) in &self.kept {
            let found = verify(&location, manifest, Depth::Structure, &cancel, &silent).await.unwrap();
            assert_eq!(found.list, []);
            let target = tempfile::tempdir_in(self.folder.path()).unwrap();
            let options = restore::Options::default();
            let summary = restore(&location, manifest, target.path(), &options, &cancel, &silent).await.unwrap();
            assert_eq!(summary.warnings.list, []);
            assert_same(expected, &facts(target.path()));
        }
    }
}

/// Waits until the file system's clock shows another time, and until a backup that starts has a later id. Ids of one 256th of a second
/// are ordered by their random digits.
pub(crate) fn tick(folder: &Path) {
    let probe = folder.join("probe");
    let now = || {
        fs::write(&probe, b"x").unwrap();
        let metadata = fs::metadata(&probe).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let id = || BackupId::new(jiff::Timestamp::now(), 0);
    let (before, last) = (now(), id());
    while now() == before || id() == last {
        std::thread::yield_now();
    }
}

fn play(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new();
        for step in steps {
            Box::pin(world.step(step)).await;
        }
        let last = Step::Backup { reuse: Reuse::Files, compression: Compression::None, min_live: 300 };
        Box::pin(world.step(&last)).await;
        world.sweep().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_backup_restores(steps in prop::collection::vec(step(), 1..24)) {
        play(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    #[ignore = "long; `make soak` runs it"]
    fn soak_every_backup_restores(steps in prop::collection::vec(step(), 1..60)) {
        play(&steps);
    }
}
