//! The database is gone, or is reached by TLS.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::gate::ledger::{Ledger, Unclaimed};
use crate::gate::lesson::Lesson;
use crate::queue::QueueError;
use crate::queue::tests::ledger::intent;

#[tokio::test]
async fn while_the_database_is_gone_nothing_is_acknowledged_or_posted_and_all_comes_back_by_itself() {
    let Some(mut server) = Server::start() else { return };
    server.sql("CREATE SCHEMA s");
    let address = Address::new(&server.url("s")).unwrap();
    let (database, events) = host(&address).await;
    let ledger = Posts::new(database.clone());
    let insert = async |data: &str| events.insert(vec![item(data, "c")], 0, Box::new(drop)).await;
    insert("1").await.unwrap();
    let head = events.due(room(), 0).await.unwrap().heads.pop().unwrap();
    let post = ledger.claim(intent("1/1m", None, 1)).await.unwrap().posts.pop().unwrap();
    server.crash();
    let error = insert("2").await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, QueueError::Database { .. }), "{error}");
    for part in ["the inbox in database postgres at ", "until then, DingTalk is not told that a message was taken"] {
        assert!(said.contains(part) && !said.contains("postgres@"), "{said}");
    }
    assert!(matches!(ledger.claim(intent("0", None, 1)).await, Err(Unclaimed::Unavailable(_))));
    assert!(events.due(room(), 0).await.is_err() && events.counts().await.is_err());
    let done = End::Delivered(None);
    assert!(events.end(head.seq, done.clone(), 0).await.is_err());
    // Noted when that is possible.
    ledger.end(post, &Lesson::Unsent);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    server.run();
    until("the result is stored", async || events.end(head.seq, done.clone(), 0).await.is_ok()).await;
    insert("2").await.unwrap();
    until("the next one", async || {
        let heads = events.due(room(), 0).await.unwrap().heads;
        heads.iter().any(|head| data(&head.event) == "2")
    })
    .await;
    until("the post is given back", async || ledger.claim(intent("1/1m", None, 1)).await.is_ok()).await;
    assert_eq!(server.sql("SELECT count(*) FROM s.posts"), "1");
    events.close().await;
    drop((ledger, events, database));
    server.crash();
    let error = Database::open(&address, clock::system()).await.unwrap_err();
    assert!(matches!(error, QueueError::Unusable { .. }), "{error}");
}

#[tokio::test]
async fn over_tls_the_servers_certificate_must_be_one_that_is_trusted_for_its_name() {
    let ca = {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    };
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let Some((server, port)) = Server::start_with_tls(&leaf.pem(), &key.serialize_pem()) else { return };
    let connect = async |host: &str, mode: &str, trusts: bool| {
        let url = format!("postgres://postgres@{host}:{port}/postgres?sslmode={mode}");
        let target = Address::new(&url).unwrap().target().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        if trusts {
            roots.add(ca.der().clone()).unwrap();
        }
        let pool = pool::over(&target, Arc::new(roots)).unwrap();
        let session = Session::take(&pool).await.map_err(Fault::into_reason)?;
        let row = session.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
        Ok::<bool, String>(row.get(0))
    };
    for mode in ["require", "prefer"] {
        assert_eq!(connect("localhost", mode, true).await, Ok(true), "{}", server.log());
        let error = connect("localhost", mode, false).await.unwrap_err();
        assert!(error.contains("UnknownIssuer") && error.contains("SSL_CERT_FILE"), "{error}");
        let error = connect("127.0.0.1", mode, true).await.unwrap_err();
        assert!(error.contains("certificate not valid for name"), "{error}");
    }
    assert_eq!(connect("127.0.0.1", "disable", false).await, Ok(false));
}
