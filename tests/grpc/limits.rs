//! What a caller over gRPC can cost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use tonic::Code;

use super::client::{Client, binding, framed};
use crate::strangers::{PREFACE, flood, frame, hpack};
use crate::support::held::Held;
use crate::support::{Host, PATIENCE, Resources, Robot, forget_peak, pause, peak};

fn client(host: &Host) -> Client {
    Client::new(host.grpc_address())
}

#[test]
fn a_message_has_the_length_of_a_body_at_most() {
    let host = Host::serve_with(&Resources::new(), &["--max-body-size", "64Ki"], &[]);
    let client = client(&host);
    let of = |length: usize| {
        let mut request = binding("none", "create", &[], &[]);
        request.data = vec![b'x'; 1_000];
        let overhead = request.encoded_len() - 1_000;
        // Its length has three bytes instead of two.
        request.data = vec![b'x'; length - overhead - 1];
        assert_eq!(request.encoded_len(), length);
        client.invoke(request).unwrap_err()
    };
    assert_eq!(of(64 << 10).code, Code::Internal, "taken, though there is no such binding");
    let refused = of((64 << 10) + 1);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "ERR_MALFORMED_REQUEST"));
    let text = "grpc: received message larger than max (more than 65536 bytes, see --max-body-size)";
    assert_eq!(refused.message, text);
}

#[test]
fn a_name_without_end_is_not_repeated() {
    let host = Host::serve(&Resources::new());
    let refused = client(&host).invoke(binding(&"x".repeat(1 << 20), "create", b"", &[])).unwrap_err();
    assert_eq!(refused.code, Code::Internal);
    assert!(refused.message.len() < 700 && refused.message.contains("couldn't find output binding xxx"), "{refused:?}");
}

#[test]
fn a_thousand_items_and_no_more() {
    let host = Host::serve(&Resources::new());
    let names: Vec<String> = (0..1_001).map(|number| number.to_string()).collect();
    let items: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let refused = client(&host).invoke(binding("none", "create", b"", &items)).unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument);
    assert_eq!(refused.message, "metadata has more than 1000 items; send fewer");
}

/// `content` as a message that its sender has compressed.
fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content).unwrap();
    let mut framed = framed(&gzip.finish().unwrap());
    framed[0] = 1;
    framed
}

#[test]
fn what_is_compressed_with_gzip_is_taken_and_is_as_long_as_its_content() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("ops", &robot), &["--max-body-size", "64Ki"], &[]);
    let call = |encoding: &str, body: Vec<u8>| {
        let headers = [("content-type", "application/grpc"), ("grpc-encoding", encoding)];
        let path = "/dapr.proto.runtime.v1.Dapr/InvokeBinding";
        let (_, code, message) = client(&host).raw("POST", path, &headers, body);
        (code.unwrap(), message)
    };
    let message = |length: usize| {
        let data = format!(r#"{{"message":"Hi"{}}}"#, " ".repeat(length));
        binding("ops", "create", data.as_bytes(), &[]).encode_to_vec()
    };
    assert_eq!(call("gzip", gzipped(&message(0))).0, 0);
    // Longer than what needs no share of the port's bytes, before and after.
    let noise: String = (0..40_000).map(|_| char::from(fastrand::alphanumeric() as u8)).collect();
    let noise = binding("ops", "create", format!(r#"{{"message":"{}"}}"#, &noise[..15_000]).as_bytes(), &[]);
    for long in [message(60_000), noise.encode_to_vec()] {
        assert_eq!(call("gzip", gzipped(&long)).0, 0);
    }
    assert_eq!(robot.messages().len(), 3);
    assert_eq!(call("gzip", framed(&message(0))).0, 0, "who may compress need not");
    for length in [64 << 10, 1 << 20] {
        let (code, said) = call("gzip", gzipped(&message(length)));
        assert_eq!((code, said.contains("larger than max (more than 65536 bytes")), (8, true), "{said}");
    }
    // Compressed or not, fields are counted.
    let (code, said) = call("gzip", gzipped(&[0x1a, 0].repeat(2_000)));
    assert_eq!((code, said.contains("more than 1000 items")), (3, true), "{said}");
    for body in [&gzipped(&message(0))[..30], b"\x01\0\0\0\x04abcd", b"\x01\0\0\0\0"] {
        let mut body = body.to_vec();
        let length = u32::try_from(body.len() - 5).unwrap();
        body[1..5].copy_from_slice(&length.to_be_bytes());
        assert_ne!(call("gzip", body).0, 0);
    }
    assert_eq!(call("deflate", gzipped(&message(0))).0, 12);
    assert_eq!(robot.messages().len(), 4);
}

/// A megabyte that inflates to a gigabyte, many times at once, also where it says that it is short.
#[test]
fn a_bomb_costs_no_more_than_what_it_may_be() {
    let host = Host::serve_with(&Resources::new(), &["--max-body-size", "4Mi"], &[]);
    let mut bomb = gzipped(&vec![0; 1 << 30]);
    assert!(bomb.len() < 2 << 20, "{}", bomb.len());
    let headers = [("content-type", "application/grpc"), ("grpc-encoding", "gzip")];
    let path = "/dapr.proto.runtime.v1.Dapr/InvokeBinding";
    forget_peak(host.pid());
    let before = peak(host.pid());
    for said in [1_u32 << 30, 4 << 20] {
        let end = bomb.len() - 4;
        bomb[end..].copy_from_slice(&said.to_le_bytes());
        let codes: Vec<_> = std::thread::scope(|scope| {
            let call = || client(&host).raw("POST", path, &headers, bomb.clone()).1;
            let calls: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let expected = if said == 1 << 30 { 8 } else { 3 };
        assert_eq!(codes, vec![Some(expected); 8]);
    }
    let cost = peak(host.pid()).saturating_sub(before);
    println!("{cost} MiB");
    assert!(cost <= 64, "{cost} MiB");
}

#[test]
fn a_deadline_ends_the_call_and_says_what_is_not_known() {
    let held = Held::start();
    let host = Host::serve(&Resources::binding("ops", &[("id", "x"), ("url", &held.url()), ("timeout", "5m")]));
    let address = host.grpc_address();
    let request = framed(&binding("ops", "create", br#"{"message":"x"}"#, &[]).encode_to_vec());
    let headers = [("content-type", "application/grpc"), ("grpc-timeout", "2S")];
    let call = std::thread::spawn(move || {
        Client::new(address).raw("POST", "/dapr.proto.runtime.v1.Dapr/InvokeBinding", &headers, request)
    });
    let _waiting = held.receive();
    let (http, code, message) = call.join().unwrap();
    assert_eq!((http, code), (200, Some(4)));
    assert!(message.contains("grpc-timeout") && message.contains("may have been posted"), "{message}");
    // Nothing is left of it to wait for.
    assert!(host.end().contains("stopped; every call that was accepted has been answered"));
}

#[test]
fn a_call_that_is_given_up_ends() {
    let held = Held::start();
    let resources = Resources::binding("ops", &[("id", "x"), ("url", &held.url()), ("timeout", "5m")]);
    let host = Host::serve_with(&resources, &["--dapr-graceful-shutdown-seconds", "3600"], &[]);
    let client = client(&host);
    // More than may run at once: each makes room for the next.
    for _ in 0..80 {
        let call = client.begin(binding("ops", "create", br#"{"message":"x"}"#, &[]));
        let _waiting = held.receive();
        drop(call);
    }
    assert!(host.end().contains("stopped; every call that was accepted has been answered"));
}

#[test]
fn who_calls_it_by_a_foreign_name_is_refused_without_a_token() {
    let resources = Resources::new();
    let grpc = [("content-type", "application/grpc")];
    let call = |host: &Host, headers: &[(&str, &str)]| {
        let headers = [&grpc[..], headers].concat();
        let (_, code, message) =
            client(host).raw("POST", "/dapr.proto.runtime.v1.Dapr/GetMetadata", &headers, framed(b""));
        (code, message)
    };
    let foreign: [(&[(&str, &str)], &str); 3] = [
        (&[("host", "rebound.example:50001")], "--allowed-hosts"),
        (&[("origin", "https://evil.example")], "--allowed-origins"),
        (&[("sec-fetch-site", "cross-site")], "--allowed-origins"),
    ];
    let host = Host::serve(&resources);
    assert_eq!(call(&host, &[]).0, Some(0));
    for (headers, flag) in foreign {
        let (code, message) = call(&host, headers);
        assert_eq!(code, Some(7), "{headers:?}: {message}");
        assert!(message.contains(flag) && message.contains("DAPR_API_TOKEN"), "{message}");
    }
    let host = Host::serve_with(&resources, &["--allowed-hosts", "rebound.example"], &[]);
    assert_eq!(foreign.map(|(headers, _)| call(&host, headers).0), [Some(0), Some(7), Some(7)]);
    let host = Host::serve_with(&resources, &[], &[("DAPR_API_TOKEN", "t")]);
    for (headers, _) in foreign {
        assert_eq!(call(&host, &[headers, &[("dapr-api-token", "t")]].concat()).0, Some(0), "{headers:?}");
    }
}

#[test]
fn the_port_speaks_http2_alone() {
    let host = Host::serve(&Resources::new());
    let mut stream = TcpStream::connect(host.grpc_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /v1.0/metadata HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1"), "{}", String::from_utf8_lossy(&answer));
}

/// The head of a call whose message follows.
fn head(stream: u32) -> Vec<u8> {
    let path = "/dapr.proto.runtime.v1.Dapr/InvokeBinding";
    let mut block = vec![0x83, 0x86];
    block.extend(hpack(0x04, path));
    block.extend(hpack(0x01, "localhost"));
    // content-type
    block.extend([0x0f, 0x10]);
    block.extend([16]);
    block.extend(b"application/grpc");
    frame(1, 4, stream, &block)
}

#[test]
fn no_flood_costs_more_than_64_mib() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("ops", &robot));
    let (pid, address) = (host.pid(), host.grpc_address());
    // The beginning of messages of 430,000 bytes, on as many streams as a connection may have, and one more.
    let mut streams = PREFACE.to_vec();
    for stream in (1..400).step_by(2) {
        streams.extend(head(stream));
        let begun = [&[0][..], &430_000_u32.to_be_bytes(), &[b' '; 15_000]].concat();
        streams.extend(frame(0, 0, stream, &begun));
    }
    // Streams that are begun and reset at once.
    let mut resets = PREFACE.to_vec();
    for stream in (1..20_000).step_by(2) {
        resets.extend(head(stream));
        resets.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    // Pings and settings, each of which wants an answer.
    let pings = [PREFACE, &frame(6, 0, 0, &[0; 8]).repeat(50_000)].concat();
    let settings = [PREFACE, &frame(4, 0, 0, &[]).repeat(50_000)].concat();
    for (name, connections, bytes) in
        [("streams", 20, &streams), ("resets", 50, &resets), ("pings", 50, &pings), ("settings", 50, &settings)]
    {
        forget_peak(pid);
        let before = peak(pid);
        let flood = flood(address, connections, bytes);
        client(&host).create("ops", r#"{"message":"Hi"}"#).unwrap();
        let cost = peak(pid).saturating_sub(before);
        println!("{name}: {cost} MiB");
        assert!(cost <= 64, "{name}: {cost} MiB");
        drop(flood);
    }
}

#[test]
fn long_messages_that_hang_keep_no_others_out() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("ops", &robot));
    let begun = |length: u32| {
        let message = [&[0][..], &length.to_be_bytes(), &[b' '; 15_000]].concat();
        [PREFACE, &head(1), &frame(0, 0, 1, &message)].concat()
    };
    // Each announces 20 KB and stops: their shares are what they announce, and not what they might.
    let flood = flood(host.grpc_address(), 100, &begun(20_000));
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(15_000));
    let start = Instant::now();
    client(&host).create("ops", &long).unwrap();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    drop(flood);
}

#[test]
fn both_apis_share_the_places_of_their_callers() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("ops", &robot));
    let connect = |address: SocketAddr| TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok();
    let silent: Vec<TcpStream> = (0..600).filter_map(|_| connect(host.grpc_address())).collect();
    assert!(silent.len() > 500);
    let start = Instant::now();
    client(&host).create("ops", r#"{"message":"Hi"}"#).unwrap();
    assert_eq!(host.invoke("ops", "create", r#"{"message":"Hi"}"#).status, 200);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    // The longest silent ones have made room.
    let ended = || {
        silent
            .iter()
            .filter(|stream| {
                let mut stream = *stream;
                stream.set_nonblocking(true).unwrap();
                matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)) && matches!(stream.read(&mut [0; 64]), Ok(0))
            })
            .count()
    };
    while ended() == 0 {
        assert!(start.elapsed() < PATIENCE, "nobody made room");
        pause();
    }
}
