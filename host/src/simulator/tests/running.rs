//! Starting and stopping, over HTTP and HTTPS.

use super::group::{Act, Group};
use super::*;

#[tokio::test]
async fn stops_when_told_and_when_dropped() {
    let simulator = start().await;
    let mut idle = TcpStream::connect(simulator.address()).await.unwrap();
    until(|| simulator.connections() == 1).await;
    let address = simulator.address();
    simulator.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    assert!(idle.read_u8().await.is_err());

    let simulator = start().await;
    let mut idle = TcpStream::connect(simulator.address()).await.unwrap();
    until(|| simulator.connections() == 1).await;
    drop(simulator);
    assert!(idle.read_u8().await.is_err());
}

#[tokio::test]
async fn callbacks_end_with_the_simulator() {
    for stop in [true, false] {
        let group = Group::start().await;
        group.receiver.will([Act::Hang, Act::Hang]);
        let alive = Arc::downgrade(&group.simulator.shared);
        assert_eq!(group.control("POST", "/say", json!({"text": "x", "wait": false})).await.0, 202);
        let url = format!("http://{}/say", group.simulator.address());
        let waiting = tokio::spawn(async move {
            let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
            let order = http::Request::post(url).body(Full::from(r#"{"text":"x"}"#)).unwrap();
            client.request(order).await.map(|answer| answer.status().as_u16())
        });
        until(|| group.receiver.requests.lock().unwrap().len() == 2).await;
        if stop {
            group.simulator.stop().await;
            assert_eq!(waiting.await.unwrap().unwrap(), 503);
        } else {
            drop(group.simulator);
            assert!(waiting.await.unwrap().is_err());
        }
        until(|| alive.strong_count() == 0).await;
    }
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let first = start().await;
    let config = Config { address: first.address(), ..Config::default() };
    let error = Simulator::start(config).await.unwrap_err().to_string();
    assert!(error.contains(&first.address().to_string()) && error.contains("choose another"), "{error}");
    let robot = RobotConfig { keywords: vec![String::new()], ..RobotConfig::default() };
    let error = Simulator::start(Config { robot, ..Config::default() }).await.unwrap_err().to_string();
    assert!(error.contains("a keyword is empty"), "{error}");

    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let (cert, key) = (cert.pem(), signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap().signing_key.serialize_pem();
    for (certificates, key, reason) in [
        ("", key.as_str(), "there is no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key, "the certificate is not PEM"),
        (&cert, "", "there is no private key"),
        (&cert, &other, "do not serve"),
    ] {
        let tls = Some(Tls { certificates: certificates.into(), key: Secret::new(key) });
        let error = Simulator::start(Config { tls, ..Config::default() }).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn impossible_callbacks_do_not_start() {
    let callback = CallbackConfig { url: Some("ftp://x".into()), ..CallbackConfig::default() };
    let error = Simulator::start(Config { callback, ..Config::default() }).await.unwrap_err().to_string();
    assert!(error.starts_with("callbacks cannot be set up: the callback URL begins with http://"), "{error}");
    let callback = CallbackConfig { timeout: Duration::ZERO, ..CallbackConfig::default() };
    assert!(Simulator::start(Config { callback, ..Config::default() }).await.is_err());
}

#[tokio::test]
async fn https_too_with_its_faults() {
    let (tls, trusting) = secured();
    let simulator = Simulator::start(Config { tls: Some(tls), ..Config::default() }).await.unwrap();
    assert!(simulator.url().starts_with("https://127.0.0.1:"));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting));
    let connect = async || {
        let stream = TcpStream::connect(simulator.address()).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    };
    assert_eq!(split(&exchange(connect().await, &post(SEND, TEXT)).await.unwrap()).2, OK);
    simulator.set_fault(Fault::Reset, Times::ONCE);
    let error = exchange(connect().await, &post(SEND, TEXT)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    simulator.set_fault(Fault::HalfBody, Times::ONCE);
    let mut stream = connect().await;
    stream.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let mut length = 0;
    // The end of the connection without TLS's own goodbye is an error to a TLS client.
    while let Ok(more @ 1..) = stream.read(&mut answer[length..]).await {
        length += more;
    }
    let (_, _, body) = split(std::str::from_utf8(&answer[..length]).unwrap());
    assert_eq!((body.as_str(), simulator.messages().len()), (&OK[..OK.len() / 2], 3));
}

#[test]
fn debug_shows_no_secret() {
    let robot =
        RobotConfig { secret: Some(Secret::new("T0KEN")), access_token: Secret::new("T0KEN"), ..Default::default() };
    let tls = Some(Tls { certificates: Vec::new(), key: Secret::new("T0KEN") });
    let config = Config { robot, tls, ..Config::default() };
    assert!(!format!("{config:?} {:?}", config.tls).contains("T0KEN"));
}
