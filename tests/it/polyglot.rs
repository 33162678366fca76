//! The clients in `clients/` and the real grpcurl against real servers. `make test` builds them.

const LANGUAGES: [&str; 5] = ["go", "python", "node", "java", "rust"];

/// Makes a test for each language from a function that takes one.
macro_rules! each_client {
    ($($test:ident)*) => {$(
        mod $test {
            each_client!($test: go python node java rust);
        }
    )*};
    ($test:ident: $($language:ident)*) => {$(
        #[tokio::test]
        #[ignore = "make test runs it"]
        async fn $language() {
            super::$test(stringify!($language)).await;
        }
    )*};
}

mod bulk;
mod counters;
mod examples;
mod grpcurl;
mod server;
mod sums;
