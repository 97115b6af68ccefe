use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::*;
use crate::error::Classify as _;

fn spawn(argv: &[&str]) -> (CommandSource, CancellationToken) {
    let cancel = CancellationToken::new();
    let argv: Vec<String> = argv.iter().map(|argument| (*argument).to_owned()).collect();
    (CommandSource::spawn(&argv, Empty::Refused, cancel.clone()).unwrap(), cancel)
}

fn shell(script: &str) -> (CommandSource, CancellationToken) {
    spawn(&["sh", "-c", script])
}

fn drain(source: &mut CommandSource) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1000];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(all),
            length => all.extend_from_slice(&buffer[..length]),
        }
    }
}

/// A pipe that a script inherits by name; reading it ends when every process that has it open has exited.
fn witness(dir: &tempfile::TempDir) -> (String, std::fs::File) {
    let path = dir.path().join("witness");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // Opens both ends so that opening does not block; the write end is closed below, once the script has it.
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    (path.display().to_string(), file)
}

#[test]
fn output_is_the_stream_and_status_0_its_end() {
    let (mut source, _) = shell("echo out; echo err >&2");
    assert_eq!(drain(&mut source).unwrap(), b"out\n");
    assert_eq!(source.read(&mut [0; 4]).unwrap(), 0);
    let (mut source, _) = shell("head -c 5000000 /dev/zero");
    assert_eq!(drain(&mut source).unwrap().len(), 5_000_000);
}

#[test]
fn any_other_end_fails_and_quotes_standard_error() {
    for (script, expected, last) in [
        ("echo half; echo went wrong >&2; exit 3", "exited with status 3", "went wrong"),
        ("kill -9 $$", "was killed by signal 9", ""),
        (
            "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done >&2; exit 1",
            "exited with status 1",
            "line 19999",
        ),
    ] {
        let (mut source, _) = shell(script);
        let Error::Command { outcome, stderr, argv } = drain(&mut source).unwrap_err() else { panic!("{script}") };
        assert_eq!(outcome, expected);
        assert!(stderr.ends_with(last) && stderr.len() <= TAIL, "{stderr}");
        assert_eq!(argv[2], script);
    }
}

#[test]
fn a_command_that_cannot_be_started_is_an_error_with_its_cause() {
    let error =
        CommandSource::spawn(&["/no/such/program".to_owned()], Empty::Refused, CancellationToken::new()).unwrap_err();
    assert!(error.to_string().contains("could not be started: No such file"), "{error}");
    assert!(matches!(CommandSource::spawn(&[], Empty::Refused, CancellationToken::new()), Err(Error::Invalid(_))));
}

#[test]
fn a_failed_command_does_not_wait_for_what_it_left_behind() {
    let (mut source, _) = shell("sleep 1000 & echo out; exit 7");
    let error = drain(&mut source).unwrap_err();
    assert!(error.to_string().contains("status 7"), "{error}");
    // Not even for a process that left the group and so cannot be killed; it ends when its own pipe does.
    let (mut source, _) = shell("setsid sh -c 'head -c 1 /dev/zero; exec sleep 2' & exit 7");
    assert!(drain(&mut source).unwrap_err().to_string().contains("status 7"));
}

/// Runs a script whose remaining processes have `grace`; returns the stream and its only warning, if any.
fn left_behind(script: &str, grace: Duration) -> (Result<Vec<u8>, Error>, Option<String>) {
    let (mut source, _) = shell(script);
    source.grace = grace;
    let all = drain(&mut source);
    assert_eq!(source.state, State::Reaped);
    let warnings = source.take_warnings();
    assert!(warnings.len() <= 1 && warnings.iter().all(|warning| warning.path == Path::new("sh")), "{warnings:?}");
    (all, warnings.into_iter().next().map(|warning| warning.message))
}

#[test]
fn a_process_that_holds_the_output_ends_the_stream_with_a_warning() {
    let (all, warning) = left_behind("echo data; sleep 1000 & exit 0", Duration::from_millis(50));
    assert_eq!(all.unwrap(), b"data\n");
    let warning = warning.unwrap();
    assert!(warning.contains("(sleep)") && warning.contains("still had its standard output"), "{warning}");
    // In a session of its own, so that it does not end with the group.
    let (all, warning) = left_behind("echo data; setsid sleep 5 & exit 0", Duration::from_millis(50));
    assert_eq!((all.unwrap(), warning.is_some()), (b"data\n".to_vec(), true));
    // The command's own output is the stream, however large it is and however late it is read.
    let (all, warning) = left_behind("sleep 1000 & head -c 900000 /dev/zero", Duration::ZERO);
    assert_eq!((all.unwrap().len(), warning.is_some()), (900_000, true));
    // A process that keeps only standard error open, or nothing, gives no warning.
    for script in ["echo data; sleep 2 >/dev/null & exit 0", "echo data; sleep 2 >/dev/null 2>&1 & exit 0"] {
        let (all, warning) = left_behind(script, Duration::from_millis(50));
        assert_eq!((all.unwrap(), warning), (b"data\n".to_vec(), None));
    }
}

#[test]
fn output_of_a_left_process_within_the_grace_is_stored() {
    let (all, warning) = left_behind("echo data; (sleep 0.1; echo more) & exit 0", Duration::from_secs(60));
    assert_eq!((all.unwrap(), warning), (b"data\nmore\n".to_vec(), None));
    // A process that writes without end is cut off, and the warning says so.
    let (all, warning) = left_behind("yes & exit 0", Duration::from_millis(200));
    assert!(!all.unwrap().is_empty());
    assert!(warning.as_ref().unwrap().contains("bytes written after the exit"), "{warning:?}");
}

#[test]
fn nothing_at_all_is_a_failure_unless_it_is_allowed() {
    for script in ["echo no such table >&2", "exit 3 | cat; echo no such table >&2"] {
        let (mut source, _) = shell(script);
        let error = drain(&mut source).unwrap_err();
        assert!(matches!(error, Error::Silent { .. }), "{error}");
        let report = error.report();
        assert!(report.message.ends_with("stderr ended with: no such table"), "{}", report.message);
        assert!(report.remedy.unwrap().contains("pipefail"));
    }
    let (empty, warning) = left_behind("sleep 1000 & exit 0", Duration::from_millis(10));
    assert!(matches!(empty, Err(Error::Silent { .. })) && warning.is_some());
    let mut source = CommandSource::spawn(&["true".to_owned()], Empty::Allowed, CancellationToken::new()).unwrap();
    assert_eq!(drain(&mut source).unwrap(), b"");
}

#[test]
fn cancelling_interrupts_a_blocked_read_and_ends_every_process() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut pipe) = witness(&dir);
    let (mut source, cancel) = shell(&format!("exec 9>{path}; echo ready >&9; sleep 1000 & sleep 1000"));
    let mut ready = [0; 6];
    pipe.read_exact(&mut ready).unwrap();
    let reader = std::fs::File::open(format!("/proc/self/fd/{}", pipe.as_raw_fd())).unwrap();
    drop(pipe);
    let blocked = std::thread::spawn(move || source.read(&mut [0; 100]));
    cancel.cancel();
    assert!(matches!(blocked.join().unwrap(), Err(Error::Cancelled)));
    // The end comes only when no process has the other end open.
    assert_eq!({ reader }.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn dropping_ends_every_process_too_and_a_cancelled_token_lets_nothing_through() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut pipe) = witness(&dir);
    let (source, _) = shell(&format!("exec 9>{path}; echo ready >&9; sleep 1000 & sleep 1000"));
    pipe.read_exact(&mut [0; 6]).unwrap();
    let mut reader = std::fs::File::open(format!("/proc/self/fd/{}", pipe.as_raw_fd())).unwrap();
    drop(pipe);
    drop(source);
    assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);

    let cancel = CancellationToken::new();
    cancel.cancel();
    let mut source = CommandSource::spawn(&["yes".to_owned()], Empty::Refused, cancel).unwrap();
    assert!(matches!(source.read(&mut [0; 100]), Err(Error::Cancelled)));
    assert_eq!(source.read(&mut [0; 100]).unwrap(), 0);
}

#[test]
fn sigterm_is_a_request_and_sigkill_is_not() {
    // A command that cleans up gets the time to: the witness has what its trap wrote.
    let dir = tempfile::tempdir().unwrap();
    let (path, mut pipe) = witness(&dir);
    let script =
        format!("exec 9>{path}; trap 'echo clean >&9; exit' TERM; echo ready >&9; while :; do sleep 0.01; done");
    let (mut source, cancel) = shell(&script);
    pipe.read_exact(&mut [0; 6]).unwrap();
    cancel.cancel();
    assert!(matches!(source.read(&mut [0; 100]), Err(Error::Cancelled)));
    let mut clean = [0; 6];
    pipe.read_exact(&mut clean).unwrap();
    assert_eq!(&clean, b"clean\n");

    let (mut source, cancel) = shell("trap '' TERM; echo ready; while :; do sleep 1000; done");
    source.grace = Duration::from_millis(20);
    assert_eq!(source.read(&mut [0; 100]).unwrap(), 6);
    cancel.cancel();
    assert!(matches!(source.read(&mut [0; 100]), Err(Error::Cancelled)));
}
