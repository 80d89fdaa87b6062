use super::*;

const SERVING: ServerState = ServerState::SERVING;
const REMOVED: ServerState = ServerState::REMOVED;
const UNCHECKED: ServerState = ServerState { health: KnownHealth::Unknown, ..SERVING };
const UNHEALTHY: ServerState = ServerState { health: KnownHealth::Unhealthy, ..SERVING };
const OUT_OF_SERVICE: ServerState = ServerState { is_in_service: false, ..SERVING };
const STANDBY: ServerState = ServerState { is_standby: true, ..SERVING };
/// A removed server before its drain deadline.
const DRAINING: ServerState = ServerState { is_terminating: false, ..REMOVED };
/// A server of weight 0 after its drain deadline.
const TERMINATING: ServerState = ServerState { is_terminating: true, ..OUT_OF_SERVICE };

#[test]
fn only_serving_servers_are_eligible_beside_healthy_ones() {
    assert!(may_be_eligible(&[SERVING]));
    for state in [REMOVED, UNCHECKED, UNHEALTHY, OUT_OF_SERVICE, STANDBY, DRAINING, TERMINATING] {
        assert!(!may_be_eligible(&[state]), "{state:?}");
        assert!(!is_eligible(&[SERVING, state], 1), "{state:?}");
        assert!(is_eligible(&[SERVING, state], 0), "{state:?}");
    }
}

#[test]
fn servers_without_check_result_are_eligible_while_none_is_healthy() {
    assert!(is_eligible(&[UNCHECKED, UNHEALTHY], 0));
    assert!(!is_eligible(&[UNCHECKED, UNHEALTHY], 1));
    // Healthy servers that get no new flows are no reason to wait for a check result.
    for state in [OUT_OF_SERVICE, STANDBY, TERMINATING] {
        assert!(is_eligible(&[UNCHECKED, state], 0), "{state:?}");
    }
    let out_of_service = ServerState { is_in_service: false, ..UNCHECKED };
    assert!(!is_eligible(&[out_of_service], 0));
}

#[test]
fn drain_begins_when_configuration_or_health_exclude_server() {
    for state in [REMOVED, UNHEALTHY, OUT_OF_SERVICE, DRAINING] {
        assert!(state.is_draining(), "{state:?}");
    }
    for state in [SERVING, UNCHECKED, STANDBY] {
        assert!(!state.is_draining(), "{state:?}");
    }
}

#[test]
fn tcp_flows_stay_until_their_server_is_terminating() {
    for state in [SERVING, UNCHECKED, UNHEALTHY, OUT_OF_SERVICE, STANDBY, DRAINING] {
        assert!(must_stay(&[state], FlowKind::Tcp), "{state:?}");
    }
    for state in [REMOVED, TERMINATING] {
        assert!(!must_stay(&[state], FlowKind::Tcp), "{state:?}");
        assert!(!may_move(&[state], FlowKind::Tcp), "{state:?}: no other server can continue it");
    }
}

#[test]
fn datagrams_leave_server_that_is_unhealthy_or_removed() {
    for state in [SERVING, UNCHECKED, OUT_OF_SERVICE, STANDBY] {
        assert!(must_stay(&[state], FlowKind::Udp) && !may_move(&[state], FlowKind::Udp), "{state:?}");
    }
    for state in [REMOVED, UNHEALTHY, DRAINING, TERMINATING] {
        assert!(may_move(&[state], FlowKind::Udp), "{state:?}");
    }
    assert!(may_move(&[SERVING], FlowKind::FollowingUdp));
}

#[test]
fn uncertain_state_permits_what_one_state_permits_and_requires_what_all_require() {
    assert!(may_be_eligible(&[OUT_OF_SERVICE, SERVING]));
    assert!(!may_be_eligible(&[OUT_OF_SERVICE, UNHEALTHY]));
    assert!(must_be_eligible(&[SERVING, SERVING]));
    assert!(!must_be_eligible(&[SERVING, OUT_OF_SERVICE]));
    assert!(must_stay(&[SERVING, OUT_OF_SERVICE], FlowKind::Tcp));
    assert!(!must_stay(&[SERVING, REMOVED], FlowKind::Tcp));
    assert!(may_move(&[SERVING, UNHEALTHY], FlowKind::Udp));
}

#[test]
fn servers_without_flows_are_removed_or_terminating() {
    assert!(may_have_flows(&[DRAINING]) && may_have_flows(&[REMOVED, SERVING]));
    assert!(!may_have_flows(&[REMOVED, REMOVED]) && !may_have_flows(&[TERMINATING]));
}
