//! What tar readers keep of a full backup: docs/restore-drill.md has the same as a table.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use penstock::tar::{BLOCK, END, Member};

use super::*;

/// What a reader does not bring back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    /// Extended attributes, capabilities and ACLs.
    Attributes,
    /// Attributes whose names have `=` or `%` come back under GNU tar's escaped names.
    OddAttributeNames,
    /// A user or group of an ACL from 2^31 on comes back as 2^31-1.
    LargeAclIds,
    /// Fractions of a second, or (Python, which counts in floating point) some of their last digits.
    Fractions,
    TimesOfDirectories,
    TimesOfLinks,
    TimeOfTheRoot,
    TimesBefore1970,
    /// The fraction is added where it must be subtracted.
    FractionsBefore1970,
    OwnersFrom2097152,
    OwnersOfLinks,
    Owners,
    /// The set-ID and sticky bits, what the umask takes away, and what a directory's owner may not do.
    SpecialModes,
    /// Devices and FIFOs.
    Devices,
    /// Symbolic links that lead out of the target, and hard links of symbolic links.
    LinksOutside,
    /// Files with holes: what their members have is stored under made-up names.
    SparseFiles,
}

struct Reader {
    command: &'static [&'static str],
    loses: &'static [Loses],
    exit: i32,
}

const GNU_TAR: &[&str] = &["tar", "--extract", "--preserve-permissions", "--numeric-owner", "--file"];

const PYTHON: &[&str] = &[
    "python3",
    "-c",
    "import sys, tarfile; tarfile.open(sys.argv[1]).extractall('.', numeric_owner=True, filter='fully_trusted')",
];

const READERS: [Reader; 5] = [
    Reader { command: GNU_TAR, loses: &[Loses::Attributes], exit: 0 },
    Reader {
        command: &["bsdtar", "-xpf"],
        loses: &[Loses::FractionsBefore1970, Loses::TimeOfTheRoot, Loses::OddAttributeNames, Loses::LargeAclIds],
        exit: 0,
    },
    Reader {
        command: &["busybox", "tar", "-xpf"],
        loses: &[
            Loses::Attributes,
            Loses::Fractions,
            Loses::TimesOfDirectories,
            Loses::TimesOfLinks,
            Loses::TimesBefore1970,
            Loses::OwnersFrom2097152,
            Loses::OwnersOfLinks,
            Loses::SparseFiles,
        ],
        exit: 0,
    },
    Reader { command: PYTHON, loses: &[Loses::Attributes, Loses::Fractions, Loses::TimesOfLinks], exit: 0 },
    Reader {
        command: &["7zz", "x", "-snl", "-y"],
        loses: &[
            Loses::Attributes,
            Loses::TimeOfTheRoot,
            Loses::TimesBefore1970,
            Loses::Owners,
            Loses::SpecialModes,
            Loses::Devices,
            Loses::LinksOutside,
            Loses::SparseFiles,
        ],
        // It refuses the links, and says so.
        exit: 2,
    },
];

fn is_sparse(facts: &Facts) -> bool {
    facts.size > facts.data.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

impl Loses {
    /// Whether it brings the path back at all.
    fn keeps(self, path: &[u8], facts: &Facts) -> bool {
        let kind = FileType::from_raw_mode(facts.mode);
        match self {
            Self::Devices => !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo),
            Self::LinksOutside => !matches!(path, b"absolute" | b"up" | b"symlink" | b"symlink-hard"),
            Self::SparseFiles => !is_sparse(facts) && !path.starts_with(b"GNUSparseFile."),
            _ => true,
        }
    }

    /// Takes away what is lost of a path that it brings back.
    fn reduce(self, path: &[u8], facts: &mut Facts) {
        let kind = FileType::from_raw_mode(facts.mode);
        match self {
            Self::Attributes => facts.xattrs.clear(),
            Self::OddAttributeNames => facts.xattrs.retain(|name, _| !name.starts_with(b"user.a")),
            // The tree's access ACLs name such a user.
            Self::LargeAclIds => drop(facts.xattrs.remove(&b"system.posix_acl_access"[..])),
            Self::Fractions => facts.mtime.1 = 0,
            Self::TimesOfDirectories if kind == FileType::Directory => facts.mtime = (0, 0),
            Self::TimesOfLinks if kind == FileType::Symlink => facts.mtime = (0, 0),
            Self::TimeOfTheRoot if path == b"." => facts.mtime = (0, 0),
            Self::TimesBefore1970 if facts.mtime.0 < 0 => facts.mtime = (0, 0),
            Self::FractionsBefore1970 if ODD_TIMES.contains(&path) => facts.mtime = (0, 0),
            Self::OwnersFrom2097152 if facts.owner.0 >= 2_097_152 || facts.owner.1 >= 2_097_152 => {
                facts.owner = (65534, 65534);
            }
            Self::OwnersOfLinks if kind == FileType::Symlink => facts.owner = (0, 0),
            Self::Owners => facts.owner = (0, 0),
            Self::SpecialModes => {
                facts.mode &= !0o7077;
                facts.mode |= if kind == FileType::Directory { 0o700 } else { 0 };
            }
            _ => {}
        }
    }
}

/// The files of the tree with a fraction of a second before 1970.
const ODD_TIMES: [&[u8]; 4] = [b"plain", b"a-hard", b"z-hard", b"owned"];

impl Reader {
    /// What it keeps of `facts`, which are those of `source` or what it made of them.
    fn reduced(&self, facts: &Facility, source: &Facility) -> Facility {
        let mut all = facts.clone();
        all.retain(|path, facts| {
            let original = source.get(path).unwrap_or(facts);
            self.loses.iter().all(|loses| loses.keeps(path, original))
        });
        for (path, facts) in &mut all {
            self.loses.iter().for_each(|loses| loses.reduce(path, facts));
        }
        all
    }
}

/// Runs a reader in `folder`.
#[track_caller]
fn run(command: &[&str], archive: &Path, folder: &Path, exit: i32) -> Vec<u8> {
    let output = Command::new(command[0]).args(&command[1..]).arg(archive).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{} is needed (make test-tools): {error}", command[0]));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{command:?}: {errors}");
    output.stdout
}

#[test]
fn each_reader_restores_what_the_drill_says() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    nasty_tree(&source);
    let archive = dir.path().join("a.tar");
    std::fs::write(&archive, stream(&source, &Options::default(), 1 << 20).bytes).unwrap();
    let before = facts(&source);
    for (number, reader) in READERS.iter().enumerate() {
        let target = dir.path().join(number.to_string());
        std::fs::create_dir(&target).unwrap();
        run(reader.command, &archive, &target, reader.exit);
        let after = facts(&target);
        let stand_ins = after.keys().filter(|path| path.starts_with(b"GNUSparseFile.") && path.contains(&b'/')).count();
        if reader.loses.contains(&Loses::SparseFiles) {
            // One for each file, none under the file's own name.
            assert_eq!(stand_ins, before.values().filter(|facts| is_sparse(facts)).count(), "{:?}", reader.command);
        } else {
            assert_eq!(stand_ins, 0, "{:?}", reader.command);
        }
        eprintln!("{:?}", reader.command);
        assert_same(&reader.reduced(&before, &before), &reader.reduced(&after, &before));
    }
}

/// A reader that skips PAX records finds the member behind a large file by the ustar size alone.
#[test]
fn every_reader_finds_what_follows_a_large_file() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar");
    let mut file = std::fs::File::create(&archive).unwrap();
    for (path, size) in [("before", 1), ("eight", 8 << 30), ("sixty-four", (64 << 30) + 1), ("after", 1)] {
        let mut head = Vec::new();
        Member { path: path.into(), size, ..Member::default() }.encode(&mut head);
        std::io::Write::write_all(&mut file, &head).unwrap();
        let end = std::io::Seek::seek(&mut file, std::io::SeekFrom::Current(i64::try_from(size).unwrap())).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(end.next_multiple_of(BLOCK as u64))).unwrap();
    }
    std::io::Write::write_all(&mut file, &END).unwrap();
    for command in [
        &["tar", "-tf"][..],
        &["bsdtar", "-tf"],
        &["busybox", "tar", "-tf"],
        &["python3", "-c", "import sys, tarfile; print(*tarfile.open(sys.argv[1]).getnames(), sep='\\n')"],
        &["7zz", "l", "-ba", "-slt"],
    ] {
        let listed = run(command, &archive, dir.path(), 0);
        let names = ["before", "eight", "sixty-four", "after"];
        let found = names.map(|name| {
            listed.split(|byte| *byte == b'\n').any(|line| OsStr::from_bytes(line).to_string_lossy().ends_with(name))
        });
        assert_eq!(found, [true; 4], "{command:?}: {}", String::from_utf8_lossy(&listed));
    }
}
