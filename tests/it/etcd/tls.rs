//! TLS with certificates on both sides.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sumd::etcd::{Client, Identity, Outcome, Refusal, Tls};
use tempfile::TempDir;
use tokio::time::{Duration, Instant};

use super::cluster::Cluster;
use super::{in_time, put_request};

/// A CA, in files.
struct Ca {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Self { folder, issuer }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name.
    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        let identity = Identity {
            cert: file("cert"),
            key: file("key"),
        };
        fs::write(&identity.cert, cert.pem()).expect("written");
        fs::write(&identity.key, key.serialize_pem()).expect("written");
        identity
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// With etcd's `--client-cert-auth`, only clients with a certificate are served, and only servers with a certificate of
/// the given CA are trusted.
#[tokio::test]
#[ignore = "make test runs it"]
async fn certificates() {
    let ca = Ca::new();
    let (server, ours) = (ca.issue("127.0.0.1"), ca.issue("sumd"));
    let path = ca.path();
    let flags = [
        "--cert-file",
        text(&server.cert),
        "--key-file",
        text(&server.key),
        "--trusted-ca-file",
        text(&path),
        "--client-cert-auth",
    ];
    let cluster = Cluster::start_with(1, &flags, true).await;
    let put = async |tls: Tls, deadline| {
        let mut options = cluster.options();
        assert!(options.tls.is_some(), "the address says so");
        options.tls = Some(tls);
        let client = Client::new(options).expect("the files are good");
        client.put(put_request("a", "1"), deadline).await
    };
    let right = Tls {
        ca: Some(ca.path()),
        identity: Some(ours.clone()),
    };
    put(right.clone(), in_time()).await.expect("it is let in");

    let other = Ca::new();
    let strangers = Tls {
        ca: Some(other.path()),
        ..right.clone()
    };
    let system = Tls {
        ca: None,
        ..right.clone()
    };
    let anonymous = Tls {
        identity: None,
        ..right.clone()
    };
    for (wrong, said) in [
        (strangers, "certificate"),
        (system, "certificate"),
        (anonymous, ""),
    ] {
        let deadline = Instant::now() + Duration::from_secs(1);
        let refused = put(wrong, deadline).await.expect_err("no trust");
        assert_eq!(
            refused.outcome,
            Outcome::Definite(Refusal::NotConnected),
            "{refused}"
        );
        assert!(refused.message.contains(said), "{refused}");
    }

    let mut options = cluster.options();
    for (path, hint) in [
        (other.folder.path().join("nothing"), "nothing"),
        (ours.key, "certificate"),
    ] {
        options.tls = Some(Tls {
            ca: Some(path),
            ..Tls::default()
        });
        let error = Client::new(options.clone()).err().expect("no CA");
        assert!(error.to_string().contains(hint), "{error}");
    }
}
