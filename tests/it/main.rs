//! sumd from the outside: through its port, its command line and its signals.

mod calls;
mod hostile;
mod imports;
mod limits;
mod polyglot;
mod process;
mod shutdown;
mod support;
