//! Writes a result row by row, as lines or as one JSON document, so that memory does not grow with the number of rows.
//!
//! Nothing is written before the first row. A failure after it leaves the rows before it; a JSON document is complete even then, and has the
//! failure in `error`.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::Failure;
use super::args::OutputFormat;
use super::output::Done;
use crate::download::{self, index};
use crate::error::{Classify, Report};
use crate::format::manifest::Stream;
use crate::location::Location;

/// Bytes written to standard output at a time.
const BUFFER: usize = 64 << 10;

/// Why a result ends early.
#[derive(Debug)]
pub(super) enum Failed {
    Output(io::Error),
    Report(Report),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Report> for Failed {
    fn from(report: Report) -> Self {
        Self::Report(report)
    }
}

impl From<download::Error> for Failed {
    fn from(error: download::Error) -> Self {
        Self::Report(error.report())
    }
}

/// What a result says besides its rows.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Lines before or after the rows.
    pub(super) text: String,
    /// An object: fields of the document.
    pub(super) json: Value,
    pub(super) code: u8,
}

/// A result that is being written.
pub(super) struct Rows<W: Write> {
    out: W,
    format: OutputFormat,
    /// The document's field that has the rows.
    field: &'static str,
    head: Words,
    written: u64,
}

pub(super) type Out = Rows<BufWriter<StdoutLock<'static>>>;

impl<W: Write> Rows<W> {
    pub(super) const fn new(out: W, format: OutputFormat, field: &'static str, head: Words) -> Self {
        Self { out, format, field, head, written: 0 }
    }

    pub(super) const fn count(&self) -> u64 {
        self.written
    }

    /// Writes one: as a line, or as a value.
    pub(super) fn row(&mut self, line: impl FnOnce() -> String, value: impl FnOnce() -> Value) -> io::Result<()> {
        if self.written == 0 {
            self.begin()?;
        }
        let comma = if self.written == 0 { "" } else { "," };
        self.written += 1;
        match self.format {
            OutputFormat::Human => writeln!(self.out, "{}", line()),
            OutputFormat::Json => write!(self.out, "{comma}{}", value()),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.format == OutputFormat::Human {
            return self.out.write_all(self.head.text.as_bytes());
        }
        let mut head = self.head.json.take();
        let fields = head.as_object_mut().map(std::mem::take).unwrap_or_default();
        self.out.write_all(b"{")?;
        fields.iter().try_for_each(|(name, value)| write!(self.out, "{}:{value},", json!(name)))?;
        write!(self.out, "{}:[", json!(self.field))
    }

    fn finish(&mut self, tail: &Words) -> io::Result<()> {
        match self.format {
            OutputFormat::Human => self.out.write_all(tail.text.as_bytes())?,
            OutputFormat::Json => {
                if self.written == 0 {
                    self.begin()?;
                }
                self.out.write_all(b"]")?;
                let fields = tail.json.as_object().into_iter().flat_map(Map::iter);
                fields.into_iter().try_for_each(|(name, value)| write!(self.out, ",{}:{value}", json!(name)))?;
                self.out.write_all(b"}\n")?;
            }
        }
        self.out.flush()
    }
}

/// Writes a result to standard output, on a thread that may block. `work` writes the rows, and returns what follows them.
pub(super) async fn written(
    format: OutputFormat,
    (field, head): (&'static str, Words),
    work: impl FnOnce(&mut Out) -> Result<Words, Failed> + Send + 'static,
) -> Result<Done, Failure> {
    let write = move || {
        let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        let mut rows = Rows::new(out, format, field, head);
        all(&mut rows, work)
    };
    let done = tokio::task::spawn_blocking(write).await;
    match done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(code) => Ok(Done::text("").code(code)),
        // The reader of the pipe has seen enough (`… | head`).
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Done::text("")),
        Err(Failed::Output(error)) => Err(Failure::local("write the result", &error)),
        Err(Failed::Report(report)) => Err(report.into()),
    }
}

/// The exit code; or the failure, if no document has it.
fn all<W: Write>(rows: &mut Rows<W>, work: impl FnOnce(&mut Rows<W>) -> Result<Words, Failed>) -> Result<u8, Failed> {
    match work(rows) {
        Ok(tail) => {
            rows.finish(&tail)?;
            Ok(tail.code)
        }
        Err(Failed::Report(report)) if rows.written > 0 && rows.format == OutputFormat::Json => {
            rows.finish(&Words { json: json!({ "error": report }), ..Words::default() })?;
            Ok(report.class.exit_code())
        }
        Err(Failed::Report(report)) => {
            rows.out.flush()?;
            Err(Failed::Report(report))
        }
        Err(error) => Err(error),
    }
}

/// Fetches indexes from a thread that may block.
pub(super) fn fetcher(location: Location) -> impl Fn(&Stream) -> Result<index::IndexFile, download::Error> {
    let runtime = Handle::current();
    move |stream: &Stream| runtime.block_on(index::fetch(&location, stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn result(format: OutputFormat, count: u64, end: Result<(), Report>) -> (String, Option<u8>) {
        let head = Words { text: "HEAD\n".to_owned(), json: json!({ "id": "x" }), code: 0 };
        let mut rows = Rows::new(Vec::new(), format, "rows", head);
        let code = all(&mut rows, |rows| {
            (0..count).try_for_each(|number| rows.row(|| format!("row {number}"), || json!(number)))?;
            end.map_err(Failed::Report)?;
            Ok(Words { text: "tail\n".to_owned(), json: json!({ "same": true }), code: 1 })
        });
        (String::from_utf8(rows.out).unwrap(), code.ok())
    }

    #[test]
    fn a_document_is_complete_also_after_a_failure() {
        let failed = || Err(Report::new(Class::Integrity, "damaged"));
        assert_eq!(result(OutputFormat::Human, 2, Ok(())), ("HEAD\nrow 0\nrow 1\ntail\n".to_owned(), Some(1)));
        assert_eq!(result(OutputFormat::Human, 0, Ok(())), ("tail\n".to_owned(), Some(1)));
        assert_eq!(result(OutputFormat::Human, 1, failed()), ("HEAD\nrow 0\n".to_owned(), None));
        assert_eq!(
            result(OutputFormat::Json, 2, Ok(())),
            ("{\"id\":\"x\",\"rows\":[0,1],\"same\":true}\n".to_owned(), Some(1))
        );
        assert_eq!(
            result(OutputFormat::Json, 0, Ok(())),
            ("{\"id\":\"x\",\"rows\":[],\"same\":true}\n".to_owned(), Some(1))
        );
        // Whoever prints the failure prints the only document.
        assert_eq!(result(OutputFormat::Json, 0, failed()), (String::new(), None));
        let (text, code) = result(OutputFormat::Json, 1, failed());
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&shown["rows"], &shown["error"]["class"], code), (&json!([0]), &json!("integrity"), Some(65)));
    }
}
