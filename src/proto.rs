//! The generated code.

/// `proto/sum/v1/sum.proto`.
pub mod sum {
    /// The public contract; its comments are the manual.
    #[allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation)]
    pub mod v1 {
        tonic::include_proto!("sum.v1");
    }
}

/// `proto/sumd/`.
pub mod sumd {
    /// What is kept in etcd.
    pub mod store {
        /// Its first format.
        #[allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation)]
        pub mod v1 {
            tonic::include_proto!("sumd.store.v1");
        }
    }

    /// `proto/sumd/cluster/`.
    pub mod cluster {
        /// What nodes say to each other.
        #[allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation)]
        pub mod v1 {
            tonic::include_proto!("sumd.cluster.v1");
        }
    }
}

/// `proto/etcd/`.
pub mod etcd {
    /// Keys and events.
    #[allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation)]
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }

    /// Calls.
    #[allow(missing_docs, clippy::pedantic, clippy::doc_lazy_continuation)]
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
}

/// The descriptors of the public contract, with their comments, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptors of what nodes say to each other.
#[cfg(test)]
pub const INTERNAL_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/internal.bin"));

/// The descriptors of the service that gRPC's interop client calls.
#[cfg(test)]
pub const INTEROP_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/interop.bin"));
