//! Filters of flow-table entries, as the API's documents give them.

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use slb_api::flows::Flush;

use slb_control::flush::{EndpointFilter, FlushFilter};

/// Parses the filters.
///
/// # Errors
/// An address or prefix is invalid, or no filter is given. The text says what to write.
pub fn filter(flush: &Flush) -> Result<FlushFilter> {
    let Flush { client, vip, listener, server, not_assured, all, dry_run: _ } = flush;
    let end = |what: &str, text: &Option<String>| -> Result<Option<EndpointFilter>> {
        text.as_ref().map(|text| text.parse().map_err(|why| anyhow!("{what} {why}"))).transpose()
    };
    let filter = FlushFilter {
        client: client.as_deref().map(prefix).transpose()?,
        vip: end("VIP", vip)?,
        listener: listener.clone(),
        server: end("server", server)?,
        not_assured: *not_assured,
    };
    match (filter.is_empty(), all) {
        (true, false) => bail!(
            "without a filter every entry would be erased, and connections of mode nat may end: name the entries (--client, --vip, \
             --listener, --server, --not-assured), or write --all"
        ),
        (false, true) => {
            bail!("--all erases every entry, and `{filter}` is given as well: write one of them")
        }
        _ => Ok(filter),
    }
}

fn prefix(text: &str) -> Result<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        anyhow!("client {text}: an address or a prefix is expected, as in 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(flush: &Flush) -> String {
        filter(flush).map_or_else(|error| format!("{error:#}"), |filter| filter.to_string())
    }

    #[test]
    fn flush_says_what_it_erases_or_why_it_is_refused() {
        let some = |text: &str| Some(text.to_owned());
        for (flush, said) in [
            (Flush::default(), "without a filter every entry would be erased"),
            (Flush { dry_run: true, ..Flush::default() }, "or write --all"),
            (Flush { all: true, ..Flush::default() }, "all"),
            (Flush { all: true, not_assured: true, ..Flush::default() }, "`not assured` is given as well"),
            (Flush { client: some("203.0.113.7"), ..Flush::default() }, "client 203.0.113.7/32"),
            (Flush { client: some("2001:db8::/32"), ..Flush::default() }, "client 2001:db8::/32"),
            (
                Flush { client: some("203.0.113.7/33"), ..Flush::default() },
                "client 203.0.113.7/33: an address or a prefix",
            ),
            (Flush { vip: some("192.0.2.10:x"), ..Flush::default() }, "VIP 192.0.2.10:x: an address, or"),
            (Flush { server: some("10.0.0"), ..Flush::default() }, "server 10.0.0: an address, or"),
            (
                Flush {
                    vip: some("[2001:db8::10]:80"),
                    listener: some("shop/web"),
                    server: some("10.0.0.1"),
                    not_assured: true,
                    ..Flush::default()
                },
                "VIP [2001:db8::10]:80, listener shop/web, server 10.0.0.1, not assured",
            ),
        ] {
            assert!(text(&flush).contains(said), "{flush:?}: {}", text(&flush));
        }
    }
}
