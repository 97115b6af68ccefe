//! The invariant, over kills and resumes: a model of an upload in parts, with its journal and its store.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::testing::noise;
use super::super::{Decryptor, Identity, Opened};
use super::*;

/// What somebody who sees the network and the bucket has seen, for each object (by its prefix).
#[derive(Default)]
struct Seen(HashMap<Vec<u8>, Vec<Option<u8>>>);

impl Seen {
    /// Returns whether those bytes are what was seen in their place before.
    fn look(&mut self, prefix: &[u8], offset: usize, bytes: &[u8]) -> bool {
        let object = self.0.entry(prefix.to_vec()).or_default();
        object.resize(object.len().max(offset + bytes.len()), None);
        object[offset..].iter_mut().zip(bytes).all(|(seen, byte)| *seen.get_or_insert(*byte) == *byte)
    }
}

/// The entry of an upload.
#[derive(Debug, Clone)]
struct Entry {
    prefix: Vec<u8>,
    record: String,
    tags: Tags,
    /// Bytes of the object that the store has, from its start.
    stored: usize,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    part: usize,
    piece: usize,
    /// The process dies before this step; a step is a write to the journal or a part that is sent.
    dies_at: usize,
    /// Continues at the last stored part's border, and not at the object's start.
    skips: bool,
}

struct Died;

struct Run<'a> {
    plan: Plan,
    steps: usize,
    journal: &'a mut Option<Entry>,
    seen: &'a mut Seen,
    /// Whether everything that was seen was the same in its place.
    holds: bool,
}

impl Run<'_> {
    fn step(&mut self) -> Result<(), Died> {
        self.steps += 1;
        if self.steps > self.plan.dies_at { Err(Died) } else { Ok(()) }
    }

    /// One process: resumes what the journal has, or begins an object; begins another one when it diverges. Returns the object and its
    /// prefix.
    fn upload(&mut self, source: &[u8], recipient: super::super::Recipient) -> Result<(Vec<u8>, Vec<u8>), Died> {
        loop {
            let (encryptor, prefix, from) = if let Some(entry) = self.journal.clone() {
                self.resumed(&entry)
            } else {
                let envelope = Envelope::new(&[recipient]).unwrap();
                let (prefix, record) = (envelope.prefix().to_vec(), envelope.record().to_string());
                self.step()?;
                *self.journal = Some(Entry { prefix: prefix.clone(), record, tags: Tags::default(), stored: 0 });
                (Encryptor::new(envelope), prefix, 0)
            };
            match self.object(encryptor, &prefix, source, from)? {
                Ok(object) => {
                    *self.journal = None;
                    return Ok((object, prefix));
                }
                Err(Diverged { .. }) => *self.journal = None,
            }
        }
    }

    fn resumed(&self, entry: &Entry) -> (Encryptor, Vec<u8>, usize) {
        let interrupted = Interrupted::read(&entry.record, entry.tags.clone()).unwrap();
        assert_eq!(interrupted.prefix(), entry.prefix);
        let layout = super::super::Layout::new(entry.prefix.len() as u64);
        match layout.restart(entry.stored as u64).filter(|_| self.plan.skips) {
            Some(restart) => {
                let encryptor = Encryptor::continued(interrupted, restart.chunk).unwrap();
                (encryptor, entry.prefix.clone(), usize::try_from(restart.plain).unwrap())
            }
            None => (Encryptor::again(interrupted), entry.prefix.clone(), 0),
        }
    }

    fn object(
        &mut self,
        mut encryptor: Encryptor,
        prefix: &[u8],
        source: &[u8],
        from: usize,
    ) -> Result<Result<Vec<u8>, Diverged>, Died> {
        let skipped = from / CHUNK * SEALED_CHUNK;
        // What was skipped has been stored.
        let mut object = if from == 0 { prefix.to_vec() } else { vec![0; prefix.len() + skipped] };
        let mut tags = Tags::from_bytes(vec![0; from / CHUNK * TAG]).unwrap();
        let mut sent = 0;
        // A source that has become shorter than what is stored has diverged.
        let Some(rest) = source.get(from..) else { return Ok(Err(Diverged { chunk: 0, plain: 0 })) };
        let mut runs = Vec::new();
        let mut pieces = rest.chunks(self.plan.piece);
        let mut open = true;
        while open || !runs.is_empty() {
            if runs.is_empty() {
                if let Some(piece) = pieces.next() {
                    runs = encryptor.write(Bytes::copy_from_slice(piece));
                } else {
                    open = false;
                    runs.push(std::mem::replace(&mut encryptor, unused()).finish());
                }
                continue;
            }
            let (sealed, new) = match runs.remove(0).seal() {
                Ok(sealed) => sealed,
                Err(diverged) => return Ok(Err(diverged)),
            };
            object.extend(sealed);
            tags.append(&new);
            while object.len() - sent >= self.plan.part {
                self.send(prefix, &object, sent..sent + self.plan.part, &tags)?;
                sent += self.plan.part;
            }
        }
        self.send(prefix, &object, sent..object.len(), &tags)?;
        Ok(Ok(object))
    }

    /// Makes the tags durable, then sends a part, unless the store has it.
    fn send(&mut self, prefix: &[u8], object: &[u8], part: std::ops::Range<usize>, tags: &Tags) -> Result<(), Died> {
        let stored = self.journal.as_ref().map_or(0, |entry| entry.stored);
        if part.end <= stored {
            return Ok(());
        }
        self.step()?;
        let entry = self.journal.as_mut().expect("begun above");
        let mut known = entry.tags.clone();
        known.append(&tags.clone().split_off(entry.tags.chunks()));
        entry.tags = known;
        self.step()?;
        self.holds &= self.seen.look(prefix, part.start, &object[part.clone()]);
        // It was sent, and the process dies before it knows.
        self.step()?;
        self.journal.as_mut().expect("begun above").stored = part.end;
        Ok(())
    }
}

/// In the place of an encryptor that has been consumed.
fn unused() -> Encryptor {
    Encryptor::new(Envelope::new(&[Identity::generate().unwrap().recipient()]).unwrap())
}

#[derive(Debug, Clone)]
enum Change {
    None,
    Byte(usize),
    Append(usize),
    Shorten(usize),
}

fn change(source: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Byte(at) if !source.is_empty() => {
            let at = at % source.len();
            source[at] ^= 1;
        }
        Change::Append(bytes) => source.extend(noise(*bytes)),
        Change::Shorten(to) => source.truncate(to % (source.len() + 1)),
        Change::None | Change::Byte(_) => {}
    }
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::None),
        1 => any::<usize>().prop_map(Change::Byte),
        1 => (0_usize..100_000).prop_map(Change::Append),
        1 => any::<usize>().prop_map(Change::Shorten),
    ]
}

/// Runs until a process ends; returns whether the invariant held, and the plain bytes of the object that was completed.
fn history(source: &mut Vec<u8>, processes: &[(Plan, Change)], forgets: bool) -> (bool, Vec<u8>) {
    let identity = [Identity::generate().unwrap()];
    let (mut journal, mut seen, mut holds) = (None, Seen::default(), true);
    let part = processes.first().map_or(100_000, |(plan, _)| plan.part);
    let calm = (Plan { part, piece: 50_000, dies_at: usize::MAX, skips: false }, Change::None);
    for (plan, edit) in processes.iter().chain([&calm]) {
        change(source, edit);
        if let Some(Entry { tags, .. }) = journal.as_mut().filter(|_| forgets) {
            *tags = Tags::default();
        }
        let plan = Plan { part, ..*plan };
        let mut run = Run { plan, steps: 0, journal: &mut journal, seen: &mut seen, holds: true };
        let object = run.upload(source, identity[0].recipient());
        holds &= run.holds;
        let Ok((mut object, prefix)) = object else { continue };
        if plan.skips {
            // Parts that were not encrypted again are what was stored.
            object = seen.0[&prefix].iter().map(|byte| byte.expect("every part was sent")).collect();
        }
        let opened = Opened::read(&object, &identity).unwrap();
        let start = usize::try_from(opened.layout().prefix()).unwrap();
        let (mut decryptor, mut read) = (Decryptor::new(opened), Vec::new());
        decryptor.write(&object[start..], &mut read).unwrap();
        decryptor.finish(&mut read).unwrap();
        return (holds, read);
    }
    unreachable!("the last process does not die")
}

fn processes(skips: bool) -> impl Strategy<Value = Vec<(Plan, Change)>> {
    let plan = (20_000_usize..200_000, 1_usize..150_000, 0_usize..30);
    let plan = plan.prop_map(move |(part, piece, dies_at)| Plan { part, piece: piece.max(5000), dies_at, skips });
    prop::collection::vec((plan, changes()), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_key_and_a_counter_never_meet_two_plaintexts(len in 0..5 * CHUNK, processes in processes(false)) {
        let mut source = noise(len);
        let (holds, plain) = history(&mut source, &processes, false);
        prop_assert!(holds);
        prop_assert!(plain == source, "the object is the source as it was in the process that completed it");
    }

    #[test]
    fn nor_where_stored_parts_are_not_encrypted_again(len in 0..5 * CHUNK, mut processes in processes(true)) {
        // Skipping needs a source that is known to be unchanged where it is skipped: here it only grows.
        for (_, change) in &mut processes {
            if !matches!(change, Change::Append(_)) {
                *change = Change::None;
            }
        }
        let mut source = noise(len);
        let (holds, plain) = history(&mut source, &processes, false);
        prop_assert!(holds && plain == source);
    }
}

/// The model sees a violation when there is one: the same history, with a journal that forgets the tags.
#[test]
fn without_the_tags_the_model_sees_two_plaintexts() {
    // Dies when a part was sent, before it knows.
    let plan = Plan { part: 100_000, piece: 50_000, dies_at: 3, skips: false };
    let processes = [(plan, Change::None), (Plan { dies_at: 100, ..plan }, Change::Byte(0))];
    let (forgot, _) = history(&mut noise(300_000), &processes, true);
    let (kept, _) = history(&mut noise(300_000), &processes, false);
    assert_eq!((forgot, kept), (false, true));
}

#[test]
fn a_changed_chunk_is_never_released() {
    let recipient = Identity::generate().unwrap().recipient();
    let envelope = Envelope::new(&[recipient]).unwrap();
    let (record, plain) = (envelope.record(), noise(3 * CHUNK));
    let seal = |mut encryptor: Encryptor, plain: &[u8]| {
        let mut runs = encryptor.write(Bytes::copy_from_slice(plain));
        runs.push(encryptor.finish());
        let mut tags = Tags::default();
        for run in runs {
            let mut sealed = vec![0xff; run.sealed_len()];
            match run.seal_into(&mut sealed) {
                Ok(new) => tags.append(&new),
                Err(diverged) => {
                    assert!(sealed.iter().all(|byte| *byte == 0), "nothing of it is left in the buffer");
                    return Err(diverged);
                }
            }
        }
        Ok(tags)
    };
    let tags = seal(Encryptor::new(envelope), &plain).unwrap();
    let again = |plain: &[u8]| seal(Encryptor::again(Interrupted::read(&record, tags.clone()).unwrap()), plain);
    assert_eq!(again(&plain).unwrap(), tags);
    let mut changed = plain.clone();
    changed[CHUNK + 3] ^= 1;
    assert_eq!(again(&changed), Err(Diverged { chunk: 1, plain: CHUNK as u64 }));
    assert_eq!(again(&plain[..CHUNK]), Err(Diverged { chunk: 0, plain: 0 }), "the last chunk was not the last");
    assert_eq!(again(&[plain.as_slice(), b"x"].concat()), Err(Diverged { chunk: 2, plain: 2 * CHUNK as u64 }));
    let gap = Encryptor::continued(Interrupted::read(&record, tags.clone()).unwrap(), 4).unwrap_err();
    assert_eq!(gap, JournalError::Gap { at: 4, known: 3 });
    let tail = Encryptor::continued(Interrupted::read(&record, tags.clone()).unwrap(), 2).unwrap();
    assert_eq!(seal(tail, &plain[2 * CHUNK..]).unwrap(), tags.clone().split_off(2));
}

#[test]
fn nothing_that_can_be_printed_shows_content() {
    let mut encryptor = Encryptor::new(Envelope::new(&[Identity::generate().unwrap().recipient()]).unwrap());
    let runs = encryptor.write(Bytes::from(vec![b'A'; 2 * CHUNK]));
    let shown = format!("{encryptor:?} {runs:?}");
    assert!(!shown.contains("65, 65") && !shown.contains("AAA"), "{shown}");
}

#[test]
fn pieces_make_no_difference() {
    let recipient = Identity::generate().unwrap().recipient();
    let (plain, envelope) = (noise(5 * CHUNK + 3), Envelope::new(&[recipient]).unwrap());
    let record = envelope.record();
    let seal = |piece: usize| {
        let mut encryptor = Encryptor::again(Interrupted::read(&record, Tags::default()).unwrap());
        let mut runs: Vec<super::Run> =
            plain.chunks(piece).flat_map(|piece| encryptor.write(Bytes::copy_from_slice(piece))).collect();
        runs.push(encryptor.finish());
        // In any order, on any thread.
        let mut threads: Vec<_> =
            runs.into_iter().rev().map(|run| std::thread::spawn(|| run.seal().unwrap())).collect();
        threads.reverse();
        threads.into_iter().flat_map(|thread| thread.join().unwrap().0).collect::<Vec<u8>>()
    };
    let whole = seal(plain.len());
    for piece in [997, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 150_000] {
        assert!(seal(piece) == whole, "{piece}");
    }
}
