use super::*;
use crate::{client::ListenerTerms, server::Service};

const BOUNDS: Bounds = Bounds { detection: Duration::from_secs(5), recovery: Duration::from_secs(3) };

/// A model of two servers, and the time at which the test begins.
struct ModelFixture {
    model: Model,
    zero: Instant,
}

impl ModelFixture {
    fn new() -> Self {
        Self { model: Model::new(BOUNDS, ["b1", "b2"]), zero: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.zero + Duration::from_secs(seconds)
    }

    fn during(&self, from: u64, to: u64) -> Interval {
        Interval { from: self.at(from), to: self.at(to) }
    }

    /// Whether the report breaks a rule.
    fn is_wrong(&mut self, service: Service, from: u64, to: u64, what: FlowEvent) -> bool {
        let before = self.model.totals().wrong();
        let during = self.during(from, to);
        self.model.judge(&FlowReport { view: view(service), source: None, during, what });
        assert_eq!(self.model.wrong().len() as u64, self.model.totals().wrong());
        self.model.totals().wrong() > before
    }
}

fn view(service: Service) -> ListenerView {
    ListenerView {
        service,
        target: ([198, 51, 100, 10], 80).into(),
        direct: false,
        terms: ListenerTerms::of(service),
    }
}

fn began(server: &str) -> FlowEvent {
    FlowEvent::Began { server: server.to_owned(), retries: 0 }
}

fn failed() -> FlowEvent {
    FlowEvent::Failed { error: "no answer".to_owned() }
}

fn broke(server: &str) -> FlowEvent {
    FlowEvent::Broke { server: server.to_owned(), error: "reset".to_owned() }
}

fn moved() -> FlowEvent {
    FlowEvent::Moved { from: "b1".to_owned(), to: "b2".to_owned() }
}

#[test]
fn model_rejects_broken_moved_and_failed_flows_of_healthy_servers() {
    let mut fixture = ModelFixture::new();
    for what in [failed(), broke("b1"), moved(), FlowEvent::Began { server: "b1".to_owned(), retries: 1 }] {
        assert!(fixture.is_wrong(Service::Echo, 1, 2, what));
    }
    assert!(!fixture.is_wrong(Service::Http, 1, 2, began("b1")));
}

/// A failure does not excuse the loss of a datagram that was sent before it, however long the client waits for the
/// answer.
#[test]
fn failure_excuses_no_datagram_sent_before_it() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(12));
    let again = || FlowEvent::Began { server: "b2".to_owned(), retries: 1 };
    assert!(fixture.is_wrong(Service::Echo, 10, 14, again()));
    assert!(!fixture.is_wrong(Service::Echo, 12, 16, again()));
}

#[test]
fn established_flows_of_failed_server_may_break() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(10));
    assert!(!fixture.is_wrong(Service::Lines, 9, 11, broke("b1")));
    assert!(fixture.is_wrong(Service::Lines, 9, 11, broke("b2")));
    assert!(fixture.is_wrong(Service::Lines, 9, 11, moved()), "a connection has one server");
    assert!(!fixture.is_wrong(Service::Echo, 9, 11, moved()));
    fixture.model.on_recovery("b1", fixture.during(20, 20));
    assert!(fixture.is_wrong(Service::Lines, 21, 22, broke("b1")));
    assert!(!fixture.is_wrong(Service::Echo, 21, 22, moved()), "no check may have seen its recovery");
    assert!(fixture.is_wrong(Service::Echo, 24, 25, moved()));
}

#[test]
fn new_flows_may_fail_until_detection_window_ends() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(10));
    assert!(fixture.is_wrong(Service::Http, 8, 9, failed()));
    assert!(!fixture.is_wrong(Service::Http, 15, 25, failed()));
    assert!(fixture.is_wrong(Service::Http, 16, 26, failed()));
}

#[test]
fn failed_server_gets_no_new_flows_until_its_repair_begins() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(10));
    fixture.model.on_recovery("b1", fixture.during(20, 22));
    assert!(!fixture.is_wrong(Service::Http, 14, 19, began("b1")), "it may not be known");
    assert!(fixture.is_wrong(Service::Http, 16, 19, began("b1")));
    assert!(!fixture.is_wrong(Service::Http, 16, 21, began("b1")));
    assert!(
        !fixture.is_wrong(Service::Lines, 21, 22, broke("b1")),
        "it may not answer before the repair is done"
    );
    assert!(fixture.is_wrong(Service::Lines, 23, 24, broke("b1")));
}

#[test]
fn detection_window_restarts_when_daemon_returns() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(10));
    fixture.model.on_failure("b2", fixture.at(14));
    fixture.model.on_daemon_down(fixture.at(16));
    assert!(!fixture.is_wrong(Service::Http, 40, 41, failed()));
    fixture.model.on_recovery("b2", fixture.during(42, 42));
    assert!(fixture.is_wrong(Service::Http, 43, 44, failed()), "b1 was known by then");
    fixture.model.on_failure("b2", fixture.at(50));
    fixture.model.on_daemon_up(fixture.at(60));
    assert!(!fixture.is_wrong(Service::Http, 64, 66, failed()));
    assert!(fixture.is_wrong(Service::Http, 66, 67, failed()));
}

#[test]
fn barred_server_gets_no_new_flows_after_command_returns() {
    let mut fixture = ModelFixture::new();
    fixture.model.bar("b1", "http", true, fixture.during(10, 12));
    assert!(!fixture.is_wrong(Service::Http, 11, 13, began("b1")));
    assert!(fixture.is_wrong(Service::Http, 13, 14, began("b1")));
    assert!(!fixture.is_wrong(Service::Lines, 13, 14, began("b1")));
    fixture.model.bar("b1", "http", true, fixture.during(15, 16));
    assert!(fixture.is_wrong(Service::Http, 13, 14, began("b1")), "it stays so");
    fixture.model.bar("b1", "http", false, fixture.during(20, 22));
    assert!(fixture.is_wrong(Service::Http, 18, 19, began("b1")));
    assert!(!fixture.is_wrong(Service::Http, 19, 21, began("b1")));
}

#[test]
fn removed_server_may_break_its_connections() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_removed("b1", fixture.during(10, 12));
    assert!(!fixture.is_wrong(Service::Lines, 9, 11, broke("b1")));
    assert!(!fixture.is_wrong(Service::Http, 9, 11, failed()));
    assert!(fixture.is_wrong(Service::Http, 13, 14, failed()), "new flows do not go there");
    fixture.model.on_added("b1", fixture.at(20));
    assert!(fixture.is_wrong(Service::Lines, 21, 22, broke("b1")));
}

#[test]
fn counters_reveal_new_flows_to_failed_and_barred_servers() {
    let mut fixture = ModelFixture::new();
    let counted = |fixture: &mut ModelFixture, flows, second| {
        let before = fixture.model.totals().wrong();
        let during = fixture.during(second, second);
        fixture.model.count(view(Service::Http), "b1", flows, during);
        fixture.model.totals().wrong() - before
    };
    assert_eq!(counted(&mut fixture, 5, 1), 0);
    assert_eq!(counted(&mut fixture, 9, 9), 0);
    fixture.model.on_failure("b1", fixture.at(10));
    assert_eq!(counted(&mut fixture, 10, 14), 0);
    assert_eq!(counted(&mut fixture, 12, 16), 0, "some were counted before 15");
    assert_eq!(counted(&mut fixture, 14, 17), 2);
    fixture.model.on_recovery("b1", fixture.during(18, 18));
    assert_eq!(counted(&mut fixture, 16, 19), 0);
    fixture.model.bar("b1", "http", true, fixture.during(20, 21));
    assert_eq!(counted(&mut fixture, 17, 22), 0);
    assert_eq!(counted(&mut fixture, 20, 23), 3);
    assert_eq!(fixture.model.totals().to_failed, 2);
    assert_eq!(fixture.model.totals().to_barred, 3);
}

#[test]
fn unserved_packets_are_excused_only_within_detection_window() {
    let mut fixture = ModelFixture::new();
    let counted = |fixture: &mut ModelFixture, packets, second| {
        let before = fixture.model.totals().unserved;
        let during = fixture.during(second, second);
        fixture.model.count_unserved(packets, during);
        fixture.model.totals().unserved - before
    };
    assert_eq!(counted(&mut fixture, 0, 1), 0);
    assert_eq!(counted(&mut fixture, 2, 2), 2);
    fixture.model.on_failure("b1", fixture.at(10));
    assert_eq!(counted(&mut fixture, 3, 14), 0);
    assert_eq!(counted(&mut fixture, 3, 16), 0);
    assert_eq!(counted(&mut fixture, 4, 17), 1);
    fixture.model.on_failure("b2", fixture.at(20));
    fixture.model.on_recovery("b2", fixture.during(22, 22));
    assert_eq!(counted(&mut fixture, 5, 24), 0, "the daemon may still consider it unhealthy");
    let during = fixture.during(23, 24);
    fixture.model.judge(&FlowReport { view: view(Service::Http), source: None, during, what: failed() });
    assert_eq!(fixture.model.totals().failed, 1, "nothing more than a packet is lost");
    assert_eq!(counted(&mut fixture, 5, 26), 0);
    assert_eq!(counted(&mut fixture, 6, 27), 1);
}

#[test]
fn model_forgets_past_failures_after_a_minute() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(10));
    fixture.model.on_recovery("b1", fixture.during(11, 11));
    fixture.model.forget(fixture.at(70));
    assert!(!fixture.is_wrong(Service::Lines, 9, 10, broke("b1")));
    fixture.model.forget(fixture.at(72));
    assert!(fixture.is_wrong(Service::Lines, 9, 10, broke("b1")));
}

/// A listener whose servers drain for ten seconds.
fn drained() -> ListenerView {
    let view = view(Service::Lines);
    ListenerView { terms: ListenerTerms { drain: Some(Duration::from_secs(10)), ..view.terms }, ..view }
}

#[test]
fn connections_may_end_after_drain_deadline() {
    let mut fixture = ModelFixture::new();
    let ends = |fixture: &mut ModelFixture, second| {
        let before = fixture.model.totals().broken;
        let during = fixture.during(second - 1, second);
        fixture.model.judge(&FlowReport { view: drained(), source: None, during, what: broke("b1") });
        fixture.model.totals().broken == before
    };
    fixture.model.bar("b1", "http", true, fixture.during(1, 2));
    assert!(!ends(&mut fixture, 20), "that was another pool");
    fixture.model.bar("b1", "lines", true, fixture.during(20, 22));
    assert!(!ends(&mut fixture, 28));
    assert!(ends(&mut fixture, 29));
    fixture.model.on_removed("b1", fixture.during(30, 32));
    fixture.model.bar("b1", "lines", false, fixture.during(33, 34));
    assert!(ends(&mut fixture, 50), "one reason follows the other");
    fixture.model.on_added("b1", fixture.at(51));
    assert!(ends(&mut fixture, 54));
    assert!(!ends(&mut fixture, 56));
    fixture.model.on_removed("b1", fixture.during(60, 62));
    assert!(!ends(&mut fixture, 68), "a server that is removed drains too");
    fixture.model.on_added("b1", fixture.at(68));
    assert!(!ends(&mut fixture, 75), "it was back in time");
}

#[test]
fn drain_is_assumed_until_restarted_daemon_detects_recovery() {
    let mut fixture = ModelFixture::new();
    fixture.model.on_failure("b1", fixture.at(10));
    fixture.model.on_daemon_down(fixture.at(18));
    fixture.model.on_recovery("b1", fixture.during(19, 19));
    fixture.model.on_daemon_up(fixture.at(40));
    for (second, wrong) in [(42, false), (45, true)] {
        let during = fixture.during(second - 1, second);
        let before = fixture.model.totals().broken;
        fixture.model.judge(&FlowReport { view: drained(), source: None, during, what: broke("b1") });
        assert_eq!(fixture.model.totals().broken > before, wrong, "at {second}");
    }
}

#[test]
fn persistent_client_stays_while_its_server_takes_new_flows() {
    let mut fixture = ModelFixture::new();
    let view = ListenerView {
        terms: ListenerTerms { persists: true, ..ListenerTerms::of(Service::Http) },
        ..view(Service::Http)
    };
    let strays = |fixture: &mut ModelFixture, client: u8, server, second| {
        let before = fixture.model.totals().strayed;
        let (source, during) = (Some([203, 0, 113, client].into()), fixture.during(second, second));
        fixture.model.judge(&FlowReport { view, source, during, what: began(server) });
        fixture.model.totals().strayed > before
    };
    assert!(!strays(&mut fixture, 1, "b1", 1));
    assert!(!strays(&mut fixture, 2, "b2", 1));
    assert!(!strays(&mut fixture, 1, "b1", 2));
    assert!(strays(&mut fixture, 1, "b2", 3));
    assert!(!strays(&mut fixture, 1, "b2", 4));
    fixture.model.bar("b2", "http", true, fixture.during(5, 6));
    assert!(!strays(&mut fixture, 1, "b1", 7));
    fixture.model.bar("b2", "http", false, fixture.during(8, 9));
    assert!(!strays(&mut fixture, 1, "b1", 10));
    assert!(strays(&mut fixture, 1, "b2", 11), "where the last one went");
}

#[test]
fn new_flows_go_to_one_side_by_failover_threshold() {
    let mut fixture = ModelFixture::new();
    let primaries = ["b1", "b2", "b3"].map(str::to_owned).into();
    fixture.model.set_sides(Sides { pool: "sides", primaries, threshold: 2 });
    let view = ListenerView {
        terms: ListenerTerms { pool: "sides", ..ListenerTerms::of(Service::Lines) },
        ..view(Service::Lines)
    };
    // Reports a flow to a server of the primary or of the secondary side.
    let wrong = |fixture: &mut ModelFixture, second| {
        ["b3", "b4"].map(|server| {
            let before = fixture.model.totals().to_other_side;
            let during = fixture.during(second, second);
            fixture.model.judge(&FlowReport { view, source: None, during, what: began(server) });
            fixture.model.totals().to_other_side > before
        })
    };
    assert_eq!(wrong(&mut fixture, 1), [false, true]);
    fixture.model.on_failure("b1", fixture.at(10));
    assert_eq!(wrong(&mut fixture, 20), [false, true], "one is not enough");
    fixture.model.on_failure("b2", fixture.at(30));
    assert_eq!(wrong(&mut fixture, 36), [false, false], "it may not be known");
    assert_eq!(wrong(&mut fixture, 38), [true, false]);
    fixture.model.on_recovery("b1", fixture.during(40, 40));
    assert_eq!(wrong(&mut fixture, 44), [false, false]);
    assert_eq!(wrong(&mut fixture, 46), [false, true]);
    fixture.model.bar("b1", "sides", true, fixture.during(50, 51));
    assert_eq!(
        wrong(&mut fixture, 52),
        [false, false],
        "who has weight 0 is not counted, who is disabled is"
    );
}
