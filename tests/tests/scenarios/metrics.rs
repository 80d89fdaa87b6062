//! Metrics: a real Prometheus scrapes the daemon under traffic and evaluates every query of the dashboard and every
//! alert.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use slb_api::types::ApiHealth;
use slb_tests::{
    World,
    client::PATIENCE,
    config::{Group, Target},
    net::Family,
    scenario,
    server::Service,
    traffic::Traffic,
    wait::wait_for,
};

use super::full_nat;

/// Where the daemon serves its metrics.
const METRICS: &str = "127.0.0.1:9813";
/// Where Prometheus answers.
const PROMETHEUS: &str = "127.0.0.1:9090";
/// Server groups of the listener that fails over.
const SIDES: [&str; 2] = ["first", "second"];
/// A port of the VIPs without a listener.
const CLOSED: u16 = 9;
/// Time of a range in queries.
const RANGE: &str = "10s";
/// Connections that stay open.
const LONG_LIVED: usize = 4;

/// A file of this repository's `packaging`.
fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(path)
}

/// Whether Prometheus is installed. If not, prints that the test is skipped.
fn has_prometheus() -> bool {
    let is_there = |program| Command::new(program).arg("--version").output().is_ok();
    let has = is_there("prometheus") && is_there("promtool");
    if !has {
        println!("skipped: needs prometheus; `cargo xtask setup` installs it");
    }
    has
}

#[test]
fn alert_rules_fire_as_their_tests_say() {
    if !has_prometheus() {
        return;
    }
    for arguments in
        [["check", "rules", "prometheus/slb.rules.yml"], ["test", "rules", "prometheus/slb.rules.test.yml"]]
    {
        let said =
            Command::new("promtool").args(arguments).current_dir(packaging("")).output().expect("promtool");
        let text =
            String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && text.contains("SUCCESS"), "{arguments:?}: {text}");
    }
    // Each alert has a test in which it fires, and one in which it does not.
    let [rules, tests] = ["slb.rules.yml", "slb.rules.test.yml"]
        .map(|file| fs::read_to_string(packaging("prometheus").join(file)).expect("the rules"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let mentioned = tests.lines().filter(|line| {
            line.trim()
                .strip_suffix(", exp_alerts: [] }")
                .unwrap_or(line)
                .ends_with(&format!("alertname: {alert}"))
        });
        assert_eq!(mentioned.count(), 2, "{alert}");
    }
}

#[test]
fn prometheus_has_data_for_the_dashboard_and_every_alert() {
    if !has_prometheus() {
        return;
    }
    scenario!(&[100, 100], |world| {
        prepare(world)?;
        world.start()?;
        text_is_accepted(world)?;
        let prometheus = Prometheus::start(world)?;
        let _connections = world.client().long_lived(world.vip(Family::V4, Service::Lines), LONG_LIVED)?;
        let traffic = Traffic::start(world, LONG_LIVED)?;
        let closed = SocketAddr::new(Family::V4.vip(), CLOSED);
        world.net.client.on_thread(|| {
            // It is dropped.
            let _ = TcpStream::connect_timeout(&closed, Duration::from_millis(100));
            Ok(())
        })?;
        world.slb(&["server", "disable", "echo", &format!("{}", echo_server(world))])?;
        world.kill_servers(0);
        for service in [Service::Http, Service::Bulk] {
            world.wait_for_health_of(service, 0, ApiHealth::Unhealthy)?;
        }
        for query in prometheus.queries()? {
            wait_for(&format!("data for {query}"), PATIENCE, || {
                Ok(prometheus.has_data(world, &query)?.then_some(()))
            })?;
        }
        prometheus.alerts_have_data(world)?;
        traffic.progress(1)?;
        drop(traffic);
        refusals(world)
    });
}

/// Listeners with limits, SYN cookies and failover, in mode `full-nat`.
fn prepare(world: &mut World) -> Result<()> {
    full_nat::prepare(world)?;
    world.plan.unmatched = Some("drop");
    world.plan.daemon = format!("metrics_address = {METRICS:?}\n");
    for (index, name) in SIDES.iter().enumerate() {
        let addresses = Family::ALL.map(|family| world.net.backends[index].address(family));
        let servers = addresses.map(|address| ((address, Service::Http.backend_port()).into(), 100));
        world.plan.put_group(Group { name: (*name).to_owned(), servers: servers.into(), ..Group::default() });
    }
    let [primary, secondary] = SIDES.map(str::to_owned);
    let sides = Target::Groups { primary, secondary, threshold: 1, failback_after: None };
    world.plan.listeners.entry(Service::Http).or_default().target = Some(sides);
    let limited = world.plan.listeners.entry(Service::Bulk).or_default();
    (limited.bandwidth, limited.new_connections) = (Some("1Gbit"), Some(10_000));
    limited.syn_cookies = Some(5_000);
    Ok(())
}

/// The second server of the echo listener.
fn echo_server(world: &World) -> SocketAddr {
    (world.net.backends[1].address(Family::V4), Service::Echo.backend_port()).into()
}

/// promtool finds no fault in the text, and `slb metrics` has the families of the address.
fn text_is_accepted(world: &World) -> Result<()> {
    let (head, text) = get(world, METRICS, "/metrics", "text/plain")?;
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let said = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&said.stderr);
    ensure!(said.is_empty(), "promtool: {said}");
    let (head, open_metrics) = get(world, METRICS, "/metrics", "application/openmetrics-text")?;
    ensure!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    ensure!(open_metrics.ends_with("# EOF\n"), "no end");
    let families = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with("# TYPE ")).map(str::to_owned).collect()
    };
    ensure!(families(&world.slb(&["metrics"])?) == families(&text));
    let listeners = world.slb(&["metrics", "--scope", "listener"])?;
    ensure!(listeners.contains("slb_listener_packets_total{") && !listeners.contains("slb_server_up"));
    Ok(())
}

/// Other paths and parts are refused, a second daemon cannot have the address, and a reload does not change it.
fn refusals(world: &mut World) -> Result<()> {
    let (head, text) = get(world, METRICS, "/metrics?scope=nothing", "*/*")?;
    ensure!(head.starts_with("HTTP/1.0 400") && text.contains("`scope=nothing`"), "{head} {text}");
    for path in ["/v1/status", "/v1/reload"] {
        let (head, _) = get(world, METRICS, path, "*/*")?;
        ensure!(head.starts_with("HTTP/1.0 404"), "{path}: {head}");
    }
    let config = world.plan.toml();
    world.write(&config.replace(METRICS, "127.0.0.1:9814"))?;
    let refused = world.slb_refused(&["reload"])?;
    ensure!(refused.contains("`[daemon] metrics_address` cannot change"), "{refused}");
    let (_, text) = get(world, METRICS, "/metrics?scope=daemon", "*/*")?;
    for line in ["slb_config_last_reload_successful 0", "slb_config_differs_from_file 1"] {
        ensure!(text.lines().any(|written| written == line), "{line} is not in {text}");
    }
    world.write(&config)
}

/// A `GET` in the load balancer's namespace: head and body. HTTP/1.0 has no chunks.
fn get(world: &World, address: &str, path: &str, accept: &str) -> Result<(String, String)> {
    let answer = world.net.slb.on_thread(|| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nhost: slb\r\naccept: {accept}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Prometheus in the load balancer's namespace, with the alert rules. It ends when this is dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        // An error means that it has exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    /// Starts it, and waits until it has scraped the daemon.
    fn start(world: &World) -> Result<Self> {
        let directory = world.directory().join("prometheus");
        fs::create_dir_all(&directory)?;
        let rules = packaging("prometheus/slb.rules.yml").canonicalize()?;
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\n\
             scrape_configs:\n  - job_name: slb\n    static_configs: [{{ targets: [{METRICS:?}] }}]\n"
        );
        fs::write(directory.join("prometheus.yml"), config)?;
        let log = File::create(directory.join("log"))?;
        let child = world
            .net
            .slb
            .command("prometheus")
            .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let prometheus = Self(child);
        wait_for("Prometheus to scrape the daemon", PATIENCE, || {
            let is_up = prometheus.has_data(world, "up{job=\"slb\"} == 1").unwrap_or(false);
            Ok(is_up.then_some(()))
        })
        .with_context(|| fs::read_to_string(directory.join("log")).unwrap_or_default())?;
        Ok(prometheus)
    }

    /// Every query of the dashboard, with all values of its variables.
    fn queries(&self) -> Result<BTreeSet<String>> {
        let dashboard: Value = serde_json::from_slice(&fs::read(packaging("grafana/slb.json"))?)?;
        let mut queries = BTreeSet::new();
        expressions(&dashboard, &mut queries);
        // Annotations mark moments.
        queries.retain(|query| !query.starts_with("changes(slb_config_last_change_timestamp_seconds"));
        ensure!(queries.len() > 50, "{} queries", queries.len());
        let variables = ["instance", "load_balancer", "listener", "server_group"];
        let filled = queries.into_iter().map(|query| {
            let query = query.replace("$__rate_interval", RANGE);
            variables.iter().fold(query, |query, name| query.replace(&format!("\"${name}\""), "\".*\""))
        });
        let filled: BTreeSet<_> = filled.collect();
        ensure!(filled.iter().all(|query| !query.contains('$')), "a variable is left in {filled:?}");
        Ok(filled)
    }

    fn has_data(&self, world: &World, query: &str) -> Result<bool> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = ask(world, &format!("/api/v1/query?query={encoded}"))?;
        Ok(answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty()))
    }

    /// Every rule is evaluated without an error, and every metric that it names has data. The alerts of what this test
    /// does are pending or firing.
    fn alerts_have_data(&self, world: &World) -> Result<()> {
        let rules = wait_for("all rules to be evaluated", PATIENCE, || {
            let answer = ask(world, "/api/v1/rules")?;
            let rules = answer["data"]["groups"][0]["rules"].as_array().context("no rules")?.clone();
            Ok(rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules))
        })?;
        ensure!(rules.len() > 20, "{} rules", rules.len());
        for rule in &rules {
            ensure!(rule["health"] == "ok", "{rule}");
            for metric in metrics_of(rule["query"].as_str().context("a query")?) {
                wait_for(&format!("data of {metric} for {}", rule["name"]), PATIENCE, || {
                    Ok(self.has_data(world, &metric)?.then_some(()))
                })?;
            }
        }
        for alert in ["SlbServerDown", "SlbOnSecondary"] {
            wait_for(alert, PATIENCE, || {
                let answer = ask(world, "/api/v1/alerts")?;
                let alerts = answer["data"]["alerts"].as_array().context("no alerts")?.clone();
                Ok(alerts.iter().any(|found| found["labels"]["alertname"] == alert).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// Names of the metrics in a query.
fn metrics_of(query: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = query.split(|character| !is_part(character));
    let is_metric = |word: &&str| word.starts_with("slb_") || word.starts_with("process_") || *word == "up";
    words.filter(is_metric).map(str::to_owned).collect()
}

fn expressions(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

fn ask(world: &World, path: &str) -> Result<Value> {
    let (head, body) = get(world, PROMETHEUS, path, "application/json")?;
    if !head.contains(" 200 ") {
        bail!("{path}: {head} {body}");
    }
    Ok(serde_json::from_str(&body)?)
}
