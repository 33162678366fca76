//! Tests of the connections, the layers and the router together.

mod interop;
