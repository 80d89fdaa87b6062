//! Tests of the metrics as text, read by a parser that shares no code with the writer.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use slb_common::abi::{
    Handle,
    ids::{ServiceId, ServiceTag},
    losses::Losses,
    service::policy,
    stats::{Counters, LimitDrops, Totals},
};

use super::{
    families::{ALL, Family, Kind},
    writer::labels,
    *,
};
use crate::{
    dataplane::counters::CounterSnapshot,
    instruments::Histogram,
    server::{
        Snapshot,
        status::{readings::Readings, tests::state},
    },
};
use slb_config::samples::shop;
use slb_control::source_usage::{SourcePorts, SourceUsage};

/// A sample: its name, labels and value.
type Sample = (String, BTreeMap<String, String>, f64);

/// What a text says: types by name as described, units, and samples.
#[derive(Debug, Default)]
struct Parsed {
    types: BTreeMap<String, String>,
    units: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

/// Reads a text of either format. A family's samples must follow its type.
fn parse(text: &str, format: Format) -> Parsed {
    let (mut parsed, mut current) = (Parsed::default(), String::new());
    let text = match format {
        Format::Prometheus => text,
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("the end"),
    };
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is cut");
    for line in text.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match &words[..] {
            ["#", "HELP", name, help] if !help.is_empty() => current = (*name).to_owned(),
            ["#", "TYPE", name, kind] => {
                assert_eq!(current, **name, "{line}");
                assert!(
                    parsed.types.insert((*name).to_owned(), (*kind).to_owned()).is_none(),
                    "{line} comes twice"
                );
            }
            ["#", "UNIT", name, unit] => {
                assert_eq!((format, current.as_str()), (Format::OpenMetrics, *name));
                parsed.units.insert((*name).to_owned(), (*unit).to_owned());
            }
            _ => {
                let sample = sample(line);
                assert!(sample.0.starts_with(&current), "{line} below {current}");
                parsed.samples.push(sample);
            }
        }
    }
    parsed
}

fn sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    while let Some(pair) = rest.strip_prefix(['{', ',']) {
        let (key, after) = pair.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        let (mut value, mut characters) = (String::new(), after.char_indices());
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("no end of a value: {line}")) {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other @ ('\\' | '"'))) => value.push(other),
                    other => panic!("{other:?} after a backslash: {line}"),
                },
                (_, other) => value.push(other),
            }
        };
        assert!(labels.insert(key.to_owned(), value).is_none(), "{key} comes twice: {line}");
        rest = &after[end..];
    }
    let value = rest.trim_start_matches('}').strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
}

fn written(format: Format, fill: impl FnOnce(&mut Writer<'_>) -> Result<(), ReaderGone>) -> String {
    let mut text = Vec::new();
    let mut send = |chunk: Bytes| {
        text.extend_from_slice(&chunk);
        Ok(())
    };
    let mut writer = Writer::new(format, &mut send);
    fill(&mut writer).unwrap();
    writer.finish().unwrap();
    String::from_utf8(text).unwrap()
}

/// A daemon with listeners, servers, limits, cookies, local addresses and lost packets: every family has a sample.
fn everything() -> Collected {
    let mut state = state(3, 2);
    for (id, service) in &mut state.services {
        service.policy |= policy::SYN_COOKIES;
        service.bandwidth = 8;
        service.new_connections = 100 + id.index();
    }
    let config = shop(&[
        (
            "server_group = \"web\"",
            "primary = \"web\"\nsecondary = \"spare\"\nfailover_threshold = 1\nhealth_check = { kind = \"tcp\" }",
        ),
        (
            "[[server_group]]\nname = \"web\"",
            "[[server_group]]\nname = \"spare\"\nservers = [{ address = \"10.9.9.9\", port = 80 }]\n[[server_group]]\nname = \"web\"",
        ),
    ]);
    let mut snapshot = Snapshot::new(Arc::new(config));
    snapshot.state = Arc::new(state);
    let server = (([10, 0, 0, 1], 80).into(), slb_common::abi::protocol::IpProtocol::Tcp);
    snapshot.sources = Arc::new(SourceUsage::from([(
        (server, [192, 0, 2, 9].into()),
        SourcePorts { used: 3, ports: 28_000 },
    )]));
    let mut readings = Readings::default();
    let counters = |ids: u64| -> Vec<Counters> {
        (0..ids)
            .map(|id| Counters { packets_in: 10 * id, bytes_out: 7 * id, ..Counters::default() })
            .collect()
    };
    let drops = vec![LimitDrops { bandwidth_in: 4, cookies_sent: 6, ..LimitDrops::default() }; 19];
    readings.counters = CounterSnapshot::new(counters(19), drops, counters(22), &[Totals::default()]);
    readings.current_flows.by_service.insert(ServiceTag::new(101), 5);
    readings.current_flows.by_server.insert(Handle::new(18, 1), 4);
    let lost = ("eth0".to_owned(), Losses { redirect: 1, transmit: 2, exception: 3 });
    INSTRUMENTS.requests.count(("/v1/status".to_owned(), 200));
    Collected::for_tests(snapshot, readings, vec![lost])
}

#[test]
fn every_family_is_written_once_and_has_samples_in_both_formats() {
    let collected = everything();
    let every = Scope::ALL.map(|(_, scope)| scope);
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let mut text = String::new();
        let mut send = |chunk: Bytes| {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            Ok(())
        };
        write(format, &every, &collected, &mut send).unwrap();
        let parsed = parse(&text, format);
        let described = |family: &&Family| match format {
            Format::Prometheus if family.kind != Kind::Histogram => {
                format!("{}{}", family.name, family.suffix())
            }
            _ => family.name.to_owned(),
        };
        assert_eq!(
            parsed.types.keys().cloned().collect::<BTreeSet<_>>(),
            ALL.iter().map(described).collect()
        );
        for family in ALL {
            let name = format!("{}{}", family.name, family.suffix());
            let name = if family.kind == Kind::Histogram { format!("{name}_count") } else { name };
            // Tests have no interfaces.
            let is_absent = family.name == "slb_interface";
            assert_eq!(parsed.samples.iter().any(|(sample, ..)| *sample == name), !is_absent, "{name}");
        }
        let mut seen = BTreeSet::new();
        for (name, labels, _) in &parsed.samples {
            assert!(seen.insert((name, labels)), "{name} {labels:?} comes twice");
        }
        if format == Format::OpenMetrics {
            let with_unit = ALL.iter().filter(|family| !family.unit.is_empty());
            let units = with_unit.map(|family| (family.name.to_owned(), family.unit.to_owned()));
            assert_eq!(parsed.units, units.collect());
        }
    }
}

#[test]
fn listeners_and_servers_have_the_values_of_their_ids() {
    let collected = everything();
    let text = written(Format::Prometheus, |writer| {
        listeners::write(writer, &collected)?;
        servers::write(writer, &collected)
    });
    for line in [
        "slb_listener_packets_total{load_balancer=\"shop\",listener=\"l1\",vip=\"192.0.2.1\",protocol=\"tcp\",family=\"ipv4\",\
         direction=\"from_clients\"} 170",
        "slb_listener_bytes_total{load_balancer=\"shop\",listener=\"l1\",vip=\"192.0.2.1\",protocol=\"tcp\",family=\"ipv4\",\
         direction=\"to_clients\"} 119",
        "slb_listener_open_connections{load_balancer=\"shop\",listener=\"l1\",vip=\"192.0.2.1\",protocol=\"tcp\",\
         family=\"ipv4\"} 5",
        "slb_listener_bandwidth_limit_bytes{load_balancer=\"shop\",listener=\"l1\",vip=\"192.0.2.1\",protocol=\"tcp\",\
         family=\"ipv4\"} 1000",
        "slb_listener_syn_cookies_total{load_balancer=\"shop\",listener=\"l1\",vip=\"192.0.2.1\",protocol=\"tcp\",\
         family=\"ipv4\",result=\"sent\"} 6",
        "slb_server_packets_total{load_balancer=\"shop\",server=\"10.0.1.0:80\",table=\"1\",direction=\"from_clients\"} 180",
        "slb_server_open_connections{load_balancer=\"shop\",server=\"10.0.1.0:80\",table=\"1\"} 4",
        "slb_server_open_connections{load_balancer=\"shop\",server=\"10.0.1.1:80\",table=\"1\"} 0",
        "slb_server_weight{load_balancer=\"shop\",server=\"10.0.1.0:80\",table=\"1\"} 100",
        "slb_source_ports_used{server=\"10.0.0.1:80\",protocol=\"tcp\",local_address=\"192.0.2.9\"} 3",
    ] {
        assert!(text.lines().any(|written| written == line), "{line}\nis not in\n{text}");
    }
    assert!(collected.services().any(|(id, _)| id == ServiceId::new(17)));
}

#[test]
fn families_follow_the_conventions_of_prometheus() {
    let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), ALL.len());
    for Family { name, kind, unit, help } in ALL {
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert!(name.starts_with("slb_") || name.starts_with("process_"), "{name}");
        assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}");
        assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name} {unit}");
        assert!(["", "seconds", "bytes"].contains(unit), "{name}");
        assert!(*kind != Kind::Histogram || *unit == "seconds", "{name}");
        assert!(help.ends_with('.') && !help.contains(['\n', '\\', '"']), "{name}: {help}");
    }
}

/// docs/metrics.md has each name in a row of its tables, with the type and the help.
#[test]
fn documentation_and_code_have_the_same_metrics() {
    let documented: BTreeMap<String, String> = include_str!("../../../../docs/metrics.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            let is_metric = name.starts_with("slb_") || name.starts_with("process_");
            Some((name.to_owned(), cells.next()?.to_owned())).filter(|_| is_metric)
        })
        .collect();
    let of_code = ALL.iter().map(|family| {
        let kind = format!("{:?}", family.kind).to_lowercase();
        (format!("{}{}", family.name, family.suffix()), kind)
    });
    assert_eq!(documented, of_code.collect());
}

#[test]
fn format_is_the_one_that_the_scraper_prefers() {
    for (accept, format) in [
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("text/plain", Format::Prometheus),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
        ("application/openmetrics-text;version=\"1.0.0\"", Format::OpenMetrics),
        ("application/openmetrics-text;version=0.0.1", Format::Prometheus),
        ("application/openmetrics-text;q=0", Format::Prometheus),
        // Of Prometheus 2.42 and of 3.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        ),
        (
            "text/plain;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,application/openmetrics-text;version=1.0.0;q=0.3",
            Format::Prometheus,
        ),
    ] {
        assert_eq!(Format::negotiated(accept), format, "{accept}");
    }
}

#[test]
fn query_names_parts_and_others_are_refused() {
    assert_eq!(Scope::of_query("").unwrap(), [Scope::Daemon, Scope::Listener, Scope::Server]);
    assert_eq!(Scope::of_query("scope=server&scope=daemon").unwrap(), [Scope::Server, Scope::Daemon]);
    for query in ["scope=servers", "format=json", "scope"] {
        let refused = Scope::of_query(query).unwrap_err();
        assert!(refused.contains(&format!("`{query}`")) && refused.contains("scope=daemon"), "{refused}");
    }
}

#[test]
fn reader_that_leaves_ends_the_writing() {
    let collected = everything();
    let mut chunks = 0;
    let mut send = |_| {
        chunks += 1;
        Err(ReaderGone)
    };
    assert_eq!(write(Format::Prometheus, &[Scope::Daemon], &collected, &mut send), Err(ReaderGone));
    assert_eq!(chunks, 1);
}

#[tokio::test]
async fn body_without_its_end_is_an_error() {
    for is_complete in [true, false] {
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        chunks.send(Some(Bytes::from("slb_pinned 1\n"))).await.unwrap();
        if is_complete {
            chunks.send(None).await.unwrap();
        }
        drop(chunks);
        let read = axum::body::to_bytes(body(receiver), usize::MAX).await;
        assert_eq!(read.is_ok(), is_complete, "{read:?}");
    }
}

static GAUGE: Family = Family { name: "slb_test", kind: Kind::Gauge, unit: "", help: "A gauge." };
static HISTOGRAM: Family =
    Family { name: "slb_test_seconds", kind: Kind::Histogram, unit: "seconds", help: "A histogram." };

proptest! {
    /// Whatever labels and values there are, both formats read the same as was written.
    #[test]
    fn samples_are_read_as_they_were_written(
        rows in vec((vec(any::<String>(), 1..4), any::<u64>(), any::<f64>()), 0..20),
        durations in vec(0u64..10_000, 0..50),
    ) {
        let histogram = Histogram::new();
        durations.iter().for_each(|ms| histogram.observe(Duration::from_millis(*ms)));
        let names = ["a", "b", "c"];
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let text = written(format, |writer| {
                let mut samples = writer.family(&GAUGE);
                for (values, whole, real) in &rows {
                    let pairs: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
                    samples.sample(&labels(&pairs), "", *whole)?;
                    samples.sample("", &labels(&pairs), *real)?;
                }
                writer.family(&HISTOGRAM).histogram("", histogram.read())
            });
            let parsed = parse_any(&text, format);
            let mut expected = Vec::new();
            for (values, whole, real) in &rows {
                let pairs = names.into_iter().zip(values).filter(|(_, value)| !value.is_empty());
                let pairs: BTreeMap<_, _> =
                    pairs.map(|(name, value)| (name.to_owned(), value.clone())).collect();
                expected.push((pairs.clone(), *whole as f64));
                expected.push((pairs, *real));
            }
            let gauges = parsed.iter().filter(|(name, ..)| name == "slb_test");
            for ((_, pairs, value), (expected_pairs, expected)) in gauges.clone().zip(&expected) {
                prop_assert_eq!(pairs, expected_pairs);
                prop_assert!(value == expected || value.is_nan() && expected.is_nan());
            }
            prop_assert_eq!(gauges.count(), expected.len());
            let buckets: Vec<_> = parsed.iter().filter(|(name, ..)| name == "slb_test_seconds_bucket").collect();
            for (_, pairs, value) in buckets {
                let bound: f64 = pairs["le"].parse().unwrap();
                let below = durations.iter().filter(|ms| **ms as f64 / 1000.0 <= bound).count();
                prop_assert_eq!(*value, below as f64, "{}", bound);
            }
        }
    }
}

/// The samples of a text whose label values may hold what other readers take for the end of a line.
fn parse_any(text: &str, format: Format) -> Vec<Sample> {
    let text = match format {
        Format::Prometheus => text,
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("the end"),
    };
    text.split_terminator('\n').filter(|line| !line.starts_with("# ")).map(sample).collect()
}
