//! The proxy before a peer that sends frames back: what is cut, and where, and what is counted.

use std::time::{Duration, Instant};

use milena_tests::proxy::{Proxy, Toward, Wanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// A request of 40 bytes, length included.
fn request(api: i16, client: &str) -> Vec<u8> {
    let mut frame = vec![0; 36];
    frame[..2].copy_from_slice(&api.to_be_bytes());
    frame[8..10].copy_from_slice(&i16::try_from(client.len()).unwrap().to_be_bytes());
    frame[10..10 + client.len()].copy_from_slice(client.as_bytes());
    [&36_i32.to_be_bytes()[..], &frame].concat()
}

/// A peer that sends back whatever it gets and keeps it, behind a proxy.
struct Bench {
    proxy: Proxy,
    got: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

async fn bench() -> Bench {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let got = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
    let kept = std::sync::Arc::clone(&got);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            while let Ok(n_bytes @ 1..) = stream.read(&mut buffer).await {
                kept.lock().unwrap().extend_from_slice(&buffer[..n_bytes]);
                if stream.write_all(&buffer[..n_bytes]).await.is_err() {
                    break;
                }
            }
        }
    });
    let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), upstream).await.unwrap();
    Bench { proxy, got, _tasks: tasks }
}

/// A connection over which a frame went and came back, so that the proxy knows it.
async fn connected(bench: &Bench) -> TcpStream {
    let mut stream = TcpStream::connect(bench.proxy.address()).await.unwrap();
    exchange(&mut stream).await;
    stream
}

async fn exchange(stream: &mut TcpStream) {
    let (sent, mut back) = (request(3, "someone"), vec![0; 40]);
    stream.write_all(&sent).await.unwrap();
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, sent);
}

/// What still comes, and whether that ends by a reset.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut rest = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
    (rest, end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset))
}

#[tokio::test]
async fn a_request_is_cut_within_its_frame() {
    let bench = bench().await;
    let mut stream = connected(&bench).await;
    assert!(bench.proxy.cut(0, Toward::Broker));
    stream.write_all(&request(0, "someone")).await.unwrap();
    let (rest, is_reset) = rest(&mut stream).await;
    assert!(is_reset && rest.len() < 40, "{rest:?}");
    // The reset may be seen by us before the bytes before it are by the peer.
    let got = || bench.got.lock().unwrap().len();
    let arrived = async {
        while got() <= 40 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, arrived).await.expect("a part of the second frame reaches the broker");
    assert!(got() < 80, "the broker got {} bytes of two frames of 40", got());
    assert_eq!((bench.proxy.cuts(), bench.proxy.connections()), ([1, 0], 0));
}

#[tokio::test]
async fn an_answer_is_cut_within_its_frame_and_the_next_connection_is_whole() {
    let bench = bench().await;
    let mut stream = connected(&bench).await;
    assert!(bench.proxy.cut(0, Toward::Client));
    stream.write_all(&request(0, "someone")).await.unwrap();
    let (rest, is_reset) = rest(&mut stream).await;
    // A reset may overtake what was sent before it, and so no byte of the answer need come.
    assert!(is_reset && rest.len() < 40, "{rest:?}");
    assert_eq!(bench.got.lock().unwrap().len(), 80, "the peer got both, or it would not have answered");
    assert_eq!(bench.proxy.cuts(), [0, 1]);
    connected(&bench).await;
}

#[tokio::test]
async fn what_is_stalled_or_slow_comes_late_and_whole() {
    let bench = bench().await;
    let mut stream = connected(&bench).await;
    let began = Instant::now();
    assert!(bench.proxy.stall(0, Duration::from_millis(300)));
    exchange(&mut stream).await;
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    let began = Instant::now();
    bench.proxy.pace(Some(400));
    exchange(&mut stream).await;
    // 40 bytes there and 40 back.
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    bench.proxy.pace(None);
    exchange(&mut stream).await;
}

#[tokio::test]
async fn requests_and_dials_in_vain_are_counted() {
    let bench = bench().await;
    let mut stream = connected(&bench).await;
    for _ in 0..4 {
        exchange(&mut stream).await;
    }
    let most = bench.proxy.most_wanted();
    assert!(most.contains(&(Wanted::Connection, 1)), "{most:?}");
    assert!(most.contains(&(Wanted::Request("someone".to_owned(), 3), 5)), "{most:?}");
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), gone).await.unwrap();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(rest(&mut stream).await, (Vec::new(), true));
    }
    assert_eq!(proxy.most_wanted(), [(Wanted::ConnectionInVain, 3)]);
}
