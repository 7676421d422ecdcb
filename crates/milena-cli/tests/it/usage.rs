//! Wrong use, wrong addresses, and what the help says.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Instant;

use crate::support::{Cluster, Running, command, end, milena};

#[test]
fn wrong_use_is_exit_code_2() {
    for args in
        [&["topics", "list"][..], &["groups", "list"], &["produce", "-t", "orders"], &["consume", "-t", "orders"]]
    {
        milena(args).fails(2, &["-b HOST:PORT", "KAFKA_BOOTSTRAP_SERVERS"]);
    }
    for (args, says) in [
        (&["consume", "-b", "localhost:1"][..], "--topic"),
        (&["topics", "list", "--wrong"], "--wrong"),
        (&["nonsense"], "nonsense"),
        (&["consume", "-t", "orders", "--from", "-3", "-b", "h:1"], "--from"),
        (&["consume", "-t", "orders", "--from=-3", "-b", "h:1"], "beginning, end or an offset"),
        (&["topics", "create", "orders", "-p", "0", "-b", "h:1"], "--partitions"),
        (&["topics", "create", "orders", "-p", "1", "--config", "x", "-b", "h:1"], "KEY=VALUE"),
        (&["topics", "create", "orders", "-p", "1", "--config", "=1", "-b", "h:1"], "KEY=VALUE"),
        (&["consume", "-t", "orders", "-g", "", "-b", "h:1"], "a group's id is not empty"),
        (&["groups", "describe", "", "-b", "h:1"], "a group's id is not empty"),
        (&["groups", "delete", "", "-b", "h:1"], "a group's id is not empty"),
        (&["consume", "-t", "orders", "--from", "1", "-g", "billing", "-b", "h:1"], "--from OFFSET"),
        (&["consume", "-t", "orders", "--max", "0"], "-b HOST:PORT"),
        (&["consume", "-t", "orders", "--max", "0", "--from", "1", "-g", "billing", "-b", "h:1"], "--from OFFSET"),
        (&["bench", "produce", "--timeout", "0"], "--timeout"),
        (&["broker", "--listen", "127.0.0.1:65534", "--nodes", "3"], "3 nodes take 3 ports"),
        (&["broker", "--topic", "orders"], "NAME:PARTITIONS"),
        (&["broker", "--topic", "no spaces:1", "--listen", "127.0.0.1:0"], "no spaces"),
        (&["bench", "produce", "--records", "0"], "--records"),
        (&["topics", "list", "-b", "localhost"], "localhost:9092"),
        (&["demo", "-b", "localhost"], "localhost:9092"),
        (&["topics", "list", "-b", "localhost:port"], "localhost:port"),
    ] {
        milena(args).fails(2, &[says]);
    }
}

/// Port 1 is dialled by none of these: it would be refused, and the exit code another.
#[test]
fn a_name_that_no_topic_can_have_is_wrong_use_wherever_it_is_given() {
    let too_long = "x".repeat(250);
    for name in ["", ".", "..", "no spaces", "a/b", "b\u{fc}cher", &too_long] {
        for args in [
            &["topics", "create", name, "-p", "1", "-b", "127.0.0.1:1"][..],
            &["topics", "describe", name, "-b", "127.0.0.1:1"],
            &["topics", "delete", name, "-b", "127.0.0.1:1"],
            &["produce", "-t", name, "-b", "127.0.0.1:1"],
            &["consume", "-t", name, "-b", "127.0.0.1:1"],
            &["bench", "produce", "-t", name, "-b", "127.0.0.1:1"],
            &["broker", "--listen", "127.0.0.1:0", "--topic", &format!("{name}:1")],
        ] {
            milena(args).fails(2, &["1 to 249 ASCII letters, digits, `.`, `_` and `-`, but not `.` or `..`"]);
        }
    }
    let cluster = Cluster::start(&["--topic", "...:1"]);
    let longest = "A.b_c-9".repeat(36)[..249].to_owned();
    cluster.run(&["topics", "create", &longest, "-p", "1"]).ok();
    assert_eq!(cluster.run(&["topics", "list"]).ok(), format!("...\n{longest}\n"));
}

/// One after the other they would take their ten seconds each.
#[test]
fn a_wrong_address_is_named_within_its_time_limit() {
    // A port that was free a moment ago: nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // One that accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|address| (silent, address.to_string())).unwrap();
    let started = Instant::now();
    let tries: Vec<_> = [&free, &silent.1, "nowhere.invalid:9092"]
        .into_iter()
        .flat_map(|address| {
            let produce = ["produce", "-t", "orders", "-b", address];
            let list = ["topics", "list", "-b", address];
            let demo = ["demo", "-b", address];
            [&produce[..], &list, &demo].map(|args| (address.to_owned(), command(args).spawn().unwrap()))
        })
        .collect();
    for (address, child) in tries {
        end(child).fails(1, &[&address, "check"]);
    }
    assert!(started.elapsed().as_secs() < 45, "{:?}", started.elapsed());
}

#[test]
fn a_port_that_speaks_something_else_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let started = Instant::now();
    milena(&["topics", "list", "-b", &address]).fails(1, &[&address, "HTTP"]);
    assert!(started.elapsed().as_secs() < 9, "without waiting for the limit");
}

/// As most HTTP servers, and the telnet of old, do.
#[test]
fn a_port_whose_server_reads_lines_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let _ = reader.read_until(b'\n', &mut Vec::new());
            let _ = std::io::Write::write_all(reader.get_mut(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    // One after the other, each with a clock of its own: together they would share the machine with each other.
    for args in [&["demo"][..], &["topics", "list"], &["consume", "-t", "orders"], &["bench", "produce"]] {
        let started = Instant::now();
        milena(&[args, &["-b", &address]].concat()).fails(1, &[&address, "not a Kafka broker"]);
        assert!(started.elapsed().as_secs() < 9, "{args:?}: without waiting for the limit");
    }
}

#[test]
fn the_environment_may_say_where_the_cluster_is() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    let child = command(&["topics", "list"]).env("KAFKA_BOOTSTRAP_SERVERS", &cluster.address).spawn().unwrap();
    assert_eq!(end(child).ok(), "orders\n");
}

#[test]
fn the_help_names_every_command_and_every_command_its_broker() {
    let help = milena(&["--help"]).ok();
    for command in ["demo", "broker", "topics", "groups", "produce", "consume", "bench"] {
        assert!(help.contains(&format!("\n  {command}")), "{help}");
        let help = milena(&[command, "--help"]).ok();
        if command != "broker" {
            assert!(help.contains("-b, --bootstrap"), "{help}");
        }
    }
}

#[test]
fn a_reader_that_wants_one_line_is_no_failure() {
    let topics: Vec<String> = (0..20).map(|number| format!("--topic=topic-{number:02}:1")).collect();
    let cluster = Cluster::start(&topics.iter().map(String::as_str).collect::<Vec<_>>());
    let (first, ended) = cluster.head(&["topics", "list"]);
    assert_eq!((first.as_str(), ended.code, ended.stderr.as_str()), ("topic-00", Some(0), ""));
}

#[test]
fn a_log_that_nobody_can_write_decides_nothing() {
    let server = Cluster::start(&["--topic", "orders:1"]);
    let mut child = command(&["-vv", "topics", "list", "-b", &server.address])
        .stdout(Stdio::piped())
        .stderr(File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    let mut listed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut listed).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(listed.contains("orders"), "{listed}");
    server.stop("TERM").ok();
}

#[test]
fn a_broker_listens_at_a_name_too() {
    let server = Running::start(&["broker", "--listen", "localhost:0"]);
    assert!(server.line().starts_with("listening on "));
    server.kill();
}
