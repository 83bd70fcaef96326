//! All tests in one program, which is built in a fraction of the time of several.

mod accounts;
mod scripted;
mod treering;
