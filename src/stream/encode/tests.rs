use futures_util::FutureExt as _;

use super::*;
use crate::budget::{Budget, Reservation, stream};

/// Pieces of this length, each filled with one number and followed by its mark.
struct Pieces(std::vec::IntoIter<(usize, Mark)>, u8, Vec<Mark>, usize);

impl Source for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, source::Error> {
        if self.3 == 0 {
            let Some((length, mark)) = self.0.next() else { return Ok(0) };
            (self.1, self.3) = (self.1 + 1, length);
            self.2 = vec![mark];
        }
        let count = self.3.min(buffer.len());
        buffer[..count].fill(self.1);
        self.3 -= count;
        Ok(count)
    }

    fn take_marks(&mut self) -> Vec<Mark> {
        if self.3 == 0 { std::mem::take(&mut self.2) } else { Vec::new() }
    }
}

/// Bytes without a pattern, in reads of this length at most.
struct Noise(Bytes, usize);

impl Source for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, source::Error> {
        let next = self.0.split_to(self.0.len().min(self.1).min(buffer.len()));
        buffer[..next.len()].copy_from_slice(&next);
        Ok(next.len())
    }
}

fn options(window: usize, reservation: Reservation, budget: Budget) -> Options {
    let reservation = Arc::new(reservation);
    Options {
        codec: Codec::default(),
        pool: Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap()),
        blocks: OwnBuffers::new(budget.clone(), Arc::clone(&reservation), stream::BLOCKS, stream::BLOCK),
        joint: OwnBuffers::new(budget, reservation, 1, stream::JOINT),
        window,
        parent: None,
    }
}

/// Borders depend on the content alone: neither on blocks, nor on how it is read.
#[tokio::test(flavor = "multi_thread")]
async fn borders_do_not_depend_on_blocks() {
    let mut state = 42_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state ^ (state >> 29)).to_le_bytes()
    });
    // In the middle there is a chunk of the greatest length, longer than what is left of a block.
    let noise: Vec<u8> = words.take(20 << 17).flatten().collect();
    let data = Bytes::from([&noise[..10 << 20], &vec![0; 6 << 20], &noise[10 << 20..]].concat());
    let (mut expected, mut at) = (Vec::new(), 0);
    while let Some(length) = cut::first_chunk(&data[at..], More::No) {
        expected.push(codec::digest(&data[at..at + length]));
        at += length;
    }
    for step in [usize::MAX, 1_000_003, 65_536] {
        let budget = Budget::new(1 << 30);
        let options = options(4, budget.reserve(stream::READING).await.unwrap(), budget);
        let mut encoder = Encoder::start(Box::new(Noise(data.clone(), step)), options).unwrap();
        let mut found = Vec::new();
        while let Some(event) = encoder.next().await.unwrap() {
            let Event::Frame(frame) = event else { panic!("{event:?}") };
            found.push(frame.id);
        }
        assert!(found == expected, "reads of {step}: {} chunks, expected {}", found.len(), expected.len());
    }
}

/// Memory for one chunk of the largest size: batches wait for each other's memory, and for a queue full of reused chunks.
#[tokio::test(flavor = "multi_thread")]
async fn little_memory_and_a_full_queue_only_slow_it_down() {
    let taken = 0..3 * u32::try_from(QUEUE).unwrap();
    let mut pieces = Vec::new();
    for number in 0..40 {
        let mark = if number % 7 == 3 { Mark::Taken(taken.clone()) } else { Mark::Border };
        pieces.push(([700_000, 1_500_000, 100, 70_000][number % 4], mark));
    }
    let expected: Vec<String> = (1_u8..)
        .zip(&pieces)
        .flat_map(|(byte, (length, mark))| {
            let chunk = format!("{:?}", codec::digest(&vec![byte; *length]));
            let taken = matches!(mark, Mark::Taken(_)).then(|| format!("{} taken", taken.len()));
            [Some(chunk), taken].into_iter().flatten()
        })
        .collect();
    let budget = Budget::new(1 << 30);
    let options = options(1, budget.reserve(stream::READING).await.unwrap(), budget);
    let source = Pieces(pieces.into_iter(), 0, Vec::new(), 0);
    let mut encoder = Encoder::start(Box::new(source), options).unwrap();
    let (mut seen, mut run) = (Vec::new(), 0);
    let all = async {
        while let Some(event) = encoder.next().await.unwrap() {
            match event {
                Event::Taken(_) => run += 1,
                Event::Frame(frame) => {
                    if run > 0 {
                        seen.push(format!("{} taken", std::mem::take(&mut run)));
                    }
                    seen.push(format!("{:?}", frame.id));
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), all).await.expect("the encoder finishes");
    assert_eq!(seen, expected);
}

/// A source that reads until somebody says that it has read enough, as one on a server that is away does.
struct Hung {
    enough: blocking::Receiver<()>,
    _open: Arc<()>,
}

impl Source for Hung {
    fn read(&mut self, _: &mut [u8]) -> Result<usize, source::Error> {
        let _ = self.enough.recv();
        Ok(0)
    }
}

#[tokio::test]
async fn the_threads_end_when_the_source_is_closed_and_no_earlier() {
    let budget = Budget::new(1 << 30);
    let options = options(4, budget.reserve(stream::READING).await.unwrap(), budget);
    let (said, enough) = blocking::channel();
    let open = Arc::new(());
    let source = Hung { enough, _open: Arc::clone(&open) };
    let encoder = Encoder::start(Box::new(source), options).unwrap();
    let threads = encoder.threads();
    drop(encoder);
    let mut threads = Box::pin(threads);
    assert!(threads.as_mut().now_or_never().is_none());
    assert_eq!(Arc::strong_count(&open), 2);
    drop(said);
    threads.await;
    assert_eq!(Arc::strong_count(&open), 1);
}

/// Compressors forget what they made when a run is over: what is in their queue then is not made.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_is_not_compressed() {
    let budget = Budget::new(1 << 30);
    let options = options(4, budget.reserve(stream::READING).await.unwrap(), budget);
    let pool = Arc::clone(&options.pool);
    let gate = Arc::new(std::sync::Barrier::new(3));
    for _ in 0..2 {
        let gate = Arc::clone(&gate);
        // Until the encoder is gone.
        pool.spawn(move || {
            gate.wait();
        });
    }
    let pieces = vec![(1_000_000, Mark::Border), (1_000_000, Mark::Border)];
    let encoder = Encoder::start(Box::new(Pieces(pieces.into_iter(), 0, Vec::new(), 0)), options).unwrap();
    let threads = encoder.threads();
    while encoder.pending.len() < 3 {
        tokio::task::yield_now().await;
    }
    drop(encoder);
    let mut threads = Box::pin(threads);
    assert!(threads.as_mut().now_or_never().is_none(), "the pool has chunks");
    gate.wait();
    threads.await;
    assert_eq!(pool.broadcast(|_| codec::has_compressed()), [false, false]);
}
