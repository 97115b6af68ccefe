//! One binary for every integration test: linking the SDK once is most of a test binary's cost.
//!
//! A test whose server or tool is missing fails; nothing here passes because its environment was not there.
mod corpus;
mod imports;
