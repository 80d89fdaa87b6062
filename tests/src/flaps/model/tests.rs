use super::*;
use crate::{client::EjectionPolicy, server::Service};

const BOUNDS: Bounds = Bounds { detection: Duration::from_secs(5), recovery: Duration::from_secs(3) };

/// A model of two servers, and the time at which the test begins.
struct ModelTest {
    model: Model,
    zero: Instant,
}

impl ModelTest {
    fn new() -> Self {
        Self { model: Model::new(BOUNDS, ["b1", "b2"]), zero: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.zero + Duration::from_secs(seconds)
    }

    fn during(&self, from: u64, to: u64) -> During {
        During { from: self.at(from), to: self.at(to) }
    }

    /// Whether the report breaks a rule.
    fn is_wrong(&mut self, service: Service, from: u64, to: u64, what: What) -> bool {
        let before = self.model.totals().wrong();
        let during = self.during(from, to);
        self.model.judge(&Told { door: door(service), source: None, during, what });
        assert_eq!(self.model.wrong().len() as u64, self.model.totals().wrong());
        self.model.totals().wrong() > before
    }
}

fn door(service: Service) -> Door {
    Door {
        service,
        target: ([198, 51, 100, 10], 80).into(),
        direct: false,
        terms: EjectionPolicy::of(service),
    }
}

fn began(server: &str) -> What {
    What::Began { server: server.to_owned(), retries: 0 }
}

fn failed() -> What {
    What::Failed { error: "no answer".to_owned() }
}

fn broke(server: &str) -> What {
    What::Broke { server: server.to_owned(), error: "reset".to_owned() }
}

fn moved() -> What {
    What::Moved { from: "b1".to_owned(), to: "b2".to_owned() }
}

#[test]
fn flows_of_living_servers_neither_break_nor_move_nor_fail() {
    let mut play = ModelTest::new();
    for what in [failed(), broke("b1"), moved(), What::Began { server: "b1".to_owned(), retries: 1 }] {
        assert!(play.is_wrong(Service::Echo, 1, 2, what));
    }
    assert!(!play.is_wrong(Service::Http, 1, 2, began("b1")));
}

/// A failure does not excuse the loss of a datagram that was sent before it, however long the client waits for the
/// answer.
#[test]
fn a_failure_excuses_no_datagram_that_was_sent_before() {
    let mut play = ModelTest::new();
    play.model.fails("b1", play.at(12));
    let again = || What::Began { server: "b2".to_owned(), retries: 1 };
    assert!(play.is_wrong(Service::Echo, 10, 14, again()));
    assert!(!play.is_wrong(Service::Echo, 12, 16, again()));
}

#[test]
fn what_a_server_had_when_it_failed_may_break() {
    let mut play = ModelTest::new();
    play.model.fails("b1", play.at(10));
    assert!(!play.is_wrong(Service::Lines, 9, 11, broke("b1")));
    assert!(play.is_wrong(Service::Lines, 9, 11, broke("b2")));
    assert!(play.is_wrong(Service::Lines, 9, 11, moved()), "a connection has one server");
    assert!(!play.is_wrong(Service::Echo, 9, 11, moved()));
    play.model.is_well("b1", play.at(20));
    assert!(play.is_wrong(Service::Lines, 21, 22, broke("b1")));
    assert!(!play.is_wrong(Service::Echo, 21, 22, moved()), "nobody may know that it is well");
    assert!(play.is_wrong(Service::Echo, 24, 25, moved()));
}

#[test]
fn new_flows_fail_until_the_failure_must_be_known() {
    let mut play = ModelTest::new();
    play.model.fails("b1", play.at(10));
    assert!(play.is_wrong(Service::Http, 8, 9, failed()));
    assert!(!play.is_wrong(Service::Http, 15, 25, failed()));
    assert!(play.is_wrong(Service::Http, 16, 26, failed()));
}

#[test]
fn who_does_not_run_finds_nothing_out() {
    let mut play = ModelTest::new();
    play.model.fails("b1", play.at(10));
    play.model.fails("b2", play.at(14));
    play.model.goes_down(play.at(16));
    assert!(!play.is_wrong(Service::Http, 40, 41, failed()));
    play.model.is_well("b2", play.at(42));
    assert!(play.is_wrong(Service::Http, 43, 44, failed()), "b1 was known by then");
    play.model.fails("b2", play.at(50));
    play.model.is_up(play.at(60));
    assert!(!play.is_wrong(Service::Http, 64, 66, failed()));
    assert!(play.is_wrong(Service::Http, 66, 67, failed()));
}

#[test]
fn who_is_to_get_none_gets_none_once_that_was_answered() {
    let mut play = ModelTest::new();
    play.model.bar("b1", "http", true, play.during(10, 12));
    assert!(!play.is_wrong(Service::Http, 11, 13, began("b1")));
    assert!(play.is_wrong(Service::Http, 13, 14, began("b1")));
    assert!(!play.is_wrong(Service::Lines, 13, 14, began("b1")));
    play.model.bar("b1", "http", true, play.during(15, 16));
    assert!(play.is_wrong(Service::Http, 13, 14, began("b1")), "it stays so");
    play.model.bar("b1", "http", false, play.during(20, 22));
    assert!(play.is_wrong(Service::Http, 18, 19, began("b1")));
    assert!(!play.is_wrong(Service::Http, 19, 21, began("b1")));
}

#[test]
fn a_removed_server_takes_its_connections_with_it() {
    let mut play = ModelTest::new();
    play.model.is_removed("b1", play.during(10, 12));
    assert!(!play.is_wrong(Service::Lines, 9, 11, broke("b1")));
    assert!(!play.is_wrong(Service::Http, 9, 11, failed()));
    assert!(play.is_wrong(Service::Http, 13, 14, failed()), "new flows do not go there");
    play.model.is_back("b1", play.at(20));
    assert!(play.is_wrong(Service::Lines, 21, 22, broke("b1")));
}

#[test]
fn flows_are_counted_between_two_looks() {
    let mut play = ModelTest::new();
    let counted = |play: &mut ModelTest, flows, second| {
        let before = play.model.totals().wrong();
        let during = play.during(second, second);
        play.model.count(door(Service::Http), "b1", flows, during);
        play.model.totals().wrong() - before
    };
    assert_eq!(counted(&mut play, 5, 1), 0);
    assert_eq!(counted(&mut play, 9, 9), 0);
    play.model.fails("b1", play.at(10));
    assert_eq!(counted(&mut play, 10, 14), 0);
    assert_eq!(counted(&mut play, 12, 16), 0, "some were counted before 15");
    assert_eq!(counted(&mut play, 14, 17), 2);
    play.model.is_well("b1", play.at(18));
    assert_eq!(counted(&mut play, 16, 19), 0);
    play.model.bar("b1", "http", true, play.during(20, 21));
    assert_eq!(counted(&mut play, 17, 22), 0);
    assert_eq!(counted(&mut play, 20, 23), 3);
    assert_eq!(play.model.totals().to_failed, 2);
    assert_eq!(play.model.totals().to_barred, 3);
}

#[test]
fn packets_find_a_server_unless_one_is_being_found_out() {
    let mut play = ModelTest::new();
    let counted = |play: &mut ModelTest, packets, second| {
        let before = play.model.totals().unserved;
        let during = play.during(second, second);
        play.model.count_unserved(packets, during);
        play.model.totals().unserved - before
    };
    assert_eq!(counted(&mut play, 0, 1), 0);
    assert_eq!(counted(&mut play, 2, 2), 2);
    play.model.fails("b1", play.at(10));
    assert_eq!(counted(&mut play, 3, 14), 0);
    assert_eq!(counted(&mut play, 3, 16), 0);
    assert_eq!(counted(&mut play, 4, 17), 1);
    play.model.fails("b2", play.at(20));
    play.model.is_well("b2", play.at(22));
    assert_eq!(counted(&mut play, 5, 24), 0, "the daemon may still hold it for ill");
    let during = play.during(23, 24);
    play.model.judge(&Told { door: door(Service::Http), source: None, during, what: failed() });
    assert_eq!(play.model.totals().failed, 1, "nothing more than a packet is lost");
    assert_eq!(counted(&mut play, 5, 26), 0);
    assert_eq!(counted(&mut play, 6, 27), 1);
}

#[test]
fn what_is_over_is_forgotten() {
    let mut play = ModelTest::new();
    play.model.fails("b1", play.at(10));
    play.model.is_well("b1", play.at(11));
    play.model.forget(play.at(70));
    assert!(!play.is_wrong(Service::Lines, 9, 10, broke("b1")));
    play.model.forget(play.at(72));
    assert!(play.is_wrong(Service::Lines, 9, 10, broke("b1")));
}

/// A listener whose servers drain for ten seconds.
fn drained() -> Door {
    let door = door(Service::Lines);
    Door { terms: EjectionPolicy { drain: Some(Duration::from_secs(10)), ..door.terms }, ..door }
}

#[test]
fn connections_end_once_their_server_has_drained() {
    let mut play = ModelTest::new();
    let ends = |play: &mut ModelTest, second| {
        let before = play.model.totals().broken;
        let during = play.during(second - 1, second);
        play.model.judge(&Told { door: drained(), source: None, during, what: broke("b1") });
        play.model.totals().broken == before
    };
    play.model.bar("b1", "http", true, play.during(1, 2));
    assert!(!ends(&mut play, 20), "that was another pool");
    play.model.bar("b1", "lines", true, play.during(20, 22));
    assert!(!ends(&mut play, 28));
    assert!(ends(&mut play, 29));
    play.model.is_removed("b1", play.during(30, 32));
    play.model.bar("b1", "lines", false, play.during(33, 34));
    assert!(ends(&mut play, 50), "one reason follows the other");
    play.model.is_back("b1", play.at(51));
    assert!(ends(&mut play, 54));
    assert!(!ends(&mut play, 56));
    play.model.is_removed("b1", play.during(60, 62));
    assert!(!ends(&mut play, 68), "a server that is removed drains too");
    play.model.is_back("b1", play.at(68));
    assert!(!ends(&mut play, 75), "it was back in time");
}

#[test]
fn who_comes_back_unseen_has_drained_until_that_is_found_out() {
    let mut play = ModelTest::new();
    play.model.fails("b1", play.at(10));
    play.model.goes_down(play.at(18));
    play.model.is_well("b1", play.at(19));
    play.model.is_up(play.at(40));
    for (second, wrong) in [(42, false), (45, true)] {
        let during = play.during(second - 1, second);
        let before = play.model.totals().broken;
        play.model.judge(&Told { door: drained(), source: None, during, what: broke("b1") });
        assert_eq!(play.model.totals().broken > before, wrong, "at {second}");
    }
}

#[test]
fn a_client_stays_with_its_server_while_that_takes_new_flows() {
    let mut play = ModelTest::new();
    let door = Door {
        terms: EjectionPolicy { persists: true, ..EjectionPolicy::of(Service::Http) },
        ..door(Service::Http)
    };
    let strays = |play: &mut ModelTest, client: u8, server, second| {
        let before = play.model.totals().strayed;
        let (source, during) = (Some([203, 0, 113, client].into()), play.during(second, second));
        play.model.judge(&Told { door, source, during, what: began(server) });
        play.model.totals().strayed > before
    };
    assert!(!strays(&mut play, 1, "b1", 1));
    assert!(!strays(&mut play, 2, "b2", 1));
    assert!(!strays(&mut play, 1, "b1", 2));
    assert!(strays(&mut play, 1, "b2", 3));
    assert!(!strays(&mut play, 1, "b2", 4));
    play.model.bar("b2", "http", true, play.during(5, 6));
    assert!(!strays(&mut play, 1, "b1", 7));
    play.model.bar("b2", "http", false, play.during(8, 9));
    assert!(!strays(&mut play, 1, "b1", 10));
    assert!(strays(&mut play, 1, "b2", 11), "where the last one went");
}

#[test]
fn the_traffic_is_with_one_side() {
    let mut play = ModelTest::new();
    let primaries = ["b1", "b2", "b3"].map(str::to_owned).into();
    play.model.has_sides(Sides { pool: "sides", primaries, threshold: 2 });
    let door = Door {
        terms: EjectionPolicy { pool: "sides", ..EjectionPolicy::of(Service::Lines) },
        ..door(Service::Lines)
    };
    // Reports a flow to a server of the primary or of the secondary side.
    let wrong = |play: &mut ModelTest, second| {
        ["b3", "b4"].map(|server| {
            let before = play.model.totals().to_other_side;
            let during = play.during(second, second);
            play.model.judge(&Told { door, source: None, during, what: began(server) });
            play.model.totals().to_other_side > before
        })
    };
    assert_eq!(wrong(&mut play, 1), [false, true]);
    play.model.fails("b1", play.at(10));
    assert_eq!(wrong(&mut play, 20), [false, true], "one is not enough");
    play.model.fails("b2", play.at(30));
    assert_eq!(wrong(&mut play, 36), [false, false], "it may not be known");
    assert_eq!(wrong(&mut play, 38), [true, false]);
    play.model.is_well("b1", play.at(40));
    assert_eq!(wrong(&mut play, 44), [false, false]);
    assert_eq!(wrong(&mut play, 46), [false, true]);
    play.model.bar("b1", "sides", true, play.during(50, 51));
    assert_eq!(wrong(&mut play, 52), [false, false], "who has weight 0 is not counted, who is disabled is");
}
