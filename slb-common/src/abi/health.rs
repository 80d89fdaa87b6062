//! Health of servers.

use super::named_enum::named_enum;

named_enum! {
    /// Health of a server, as the maps and the control plane have it.
    enum ServerHealth:
    /// No health check has ended yet. It receives new flows only while no server of its pool is known to be healthy.
    Unknown = "unknown",
    /// Able to serve.
    Healthy = "healthy",
    /// Not able to serve.
    Unhealthy = "unhealthy",
    /// It has no health check, and counts as able to serve.
    Unchecked = "unchecked",
    /// Able to serve, and the other side has the traffic. In the maps only.
    Standby = "standby",
}

impl ServerHealth {
    /// The health with this number in the maps; unknown for a number that none has.
    pub fn from_number(number: u32) -> Self {
        Self::ALL.get(number as usize).copied().unwrap_or(Self::Unknown)
    }

    /// The number in the maps.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Whether it is healthy, or counts as healthy.
    pub const fn can_serve(self) -> bool {
        matches!(self, Self::Healthy | Self::Unchecked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_keeps_its_number_in_the_maps() {
        let numbers = [0, 1, 2, 3, 4];
        assert_eq!(numbers.map(ServerHealth::from_number), ServerHealth::ALL);
        assert!(ServerHealth::ALL.iter().map(|health| health.number()).eq(numbers));
        assert_eq!(ServerHealth::from_number(5), ServerHealth::Unknown);
    }
}
