//! Parses text into the model and checks every rule.
//!
//! One run finds all problems of a text. References across tables (VIPs, names of server groups) are collected first
//! from whatever can be read, so that one mistake causes one message.

use std::collections::{HashMap, HashSet};

use super::{
    ConfigError, LoadedConfig,
    diagnostic::{Diagnostic, DiagnosticReport, Severity},
    field::{Checker, UsedIds},
    model::{ApiObjects, Config, Document, Documents, ObjectCounts},
    raw,
    sources::Sources,
    syntax,
};

mod access_list;
mod daemon;
mod families;
mod group;
mod health_check;
mod ignored_weights;
mod limits;
mod listener;
mod load_balancer;
mod local_addresses;
mod mode;
mod port_range;
mod primary_secondary;
mod quic;
mod scheduling;
mod scope;
mod target;
mod timeouts;
mod vips;

pub(super) use daemon::STATE_DIR;

/// Parses and checks the text of a configuration file. `name` is its file name in messages.
///
/// # Errors
///
/// [`ConfigError::Invalid`] with all errors.
pub fn parse(name: &str, text: &str) -> Result<LoadedConfig, ConfigError> {
    parse_documents(Documents { file: Document::new(name, text), api: None })
}

/// Parses and checks a configuration whose objects come from a file and from the document of the API.
///
/// # Errors
///
/// [`ConfigError::Invalid`] with all errors, in either text.
pub fn parse_documents(documents: Documents) -> Result<LoadedConfig, ConfigError> {
    let sources = Sources::of(&documents);
    let report = |diagnostics| DiagnosticReport::new(sources.clone(), diagnostics);
    let unreadable = |problem: Box<Diagnostic>| ConfigError::Invalid(report(vec![*problem]));
    let (document, of_file) = read(&sources).map_err(unreadable)?;
    let mut checker = Checker::default();
    let config = build(&document, &mut checker);
    let Checker { mut diagnostics } = checker;
    let refused = diagnostics.iter().any(|diagnostic| diagnostic.severity() == Severity::Error);
    match config {
        Some(mut config) if !refused => {
            config.api_objects = ApiObjects::after(&config, of_file);
            config.documents = documents;
            Ok(LoadedConfig { config, warnings: report(diagnostics) })
        }
        _ => {
            // The errors may be the cause of the warnings.
            diagnostics.retain(|diagnostic| diagnostic.severity() == Severity::Error);
            Err(ConfigError::Invalid(report(diagnostics)))
        }
    }
}

/// Reads the texts. Returns all objects, and how many of them are those of the file, which come first.
fn read(sources: &Sources) -> Result<(raw::RawDocument, ObjectCounts), Box<Diagnostic>> {
    let text = sources.file_text();
    let mut document: raw::RawDocument =
        toml::from_str(text).map_err(|error| Box::new(syntax::explain(&error, text)))?;
    let of_file = ObjectCounts {
        load_balancers: document.load_balancer.0.len(),
        server_groups: document.server_group.0.len(),
        primary_secondary_groups: document.primary_secondary_group.0.len(),
        access_lists: document.access_list.0.len(),
    };
    if let Some(text) = sources.padded_api_text() {
        let api = toml::from_str(&text).map_err(|error| Box::new(syntax::explain(&error, &text)))?;
        document.extend(api);
    }
    Ok((document, of_file))
}

fn build(document: &raw::RawDocument, checker: &mut Checker) -> Option<Config> {
    let daemon = daemon::build(checker, document.daemon.as_ref());
    let (vips, addresses) = vips::collect(
        checker,
        &document.load_balancer.0,
        local_addresses::declared(document.daemon.as_ref()),
    );
    let mut group_names = HashMap::new();
    let groups = group::GroupIndex::collect(
        checker,
        "server group",
        "server_group",
        group::listed(&document.server_group.0),
        &mut group_names,
    );
    let pairs = &document.primary_secondary_group.0;
    let pair_index = group::GroupIndex::collect(
        checker,
        "primary/secondary server group",
        "primary_secondary_group",
        primary_secondary::listed(pairs),
        &mut group_names,
    );
    let behind_ranges = port_range::GroupsBehindRanges::of(document);
    let mut group_ids = UsedIds::default();
    let server_groups = document.server_group.0.iter();
    let server_groups: Vec<_> = server_groups
        .map(|table| group::build(checker, table, &vips, &behind_ranges, &mut group_ids))
        .collect();
    let primary_secondary_groups = pairs.iter();
    let primary_secondary_groups: Vec<_> = primary_secondary_groups
        .map(|table| primary_secondary::build(checker, table, &vips, &behind_ranges, &mut group_ids))
        .collect();

    let lists = &document.access_list.0;
    let list_index = access_list::AccessListIndex::collect(checker, lists);
    let access_lists: Vec<_> = lists.iter().map(|table| access_list::build(checker, table)).collect();

    let (mut names, mut ids) = (HashMap::new(), UsedIds::default());
    let (mut used, mut used_pairs, mut used_lists) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut load_balancers = Vec::new();
    let tunnels = daemon.as_ref().map(|daemon| daemon.tunnel_addresses.iter().collect());
    let locals = daemon.as_ref().map(|daemon| daemon.local_addresses.iter().collect());
    for (table, addresses) in document.load_balancer.0.iter().zip(addresses) {
        let mut scope = scope::BalancerScope {
            checker,
            vips: &vips,
            groups: &groups,
            pairs: &pair_index,
            behind_ranges: &behind_ranges,
            tunnels,
            locals,
            used: &mut used,
            used_pairs: &mut used_pairs,
            lists: &list_index,
            used_lists: &mut used_lists,
            names: &mut names,
            ids: &mut ids,
        };
        load_balancers.push(load_balancer::build(&mut scope, table, addresses));
    }
    groups.warn_of_unused(checker, &used);
    pair_index.warn_of_unused(checker, &used_pairs);
    list_index.warn_of_unused(checker, &used_lists);
    ignored_weights::warn(checker, document);
    quic::check(checker, document);
    if document.load_balancer.0.is_empty() {
        checker.note(
            Diagnostic::warning(0..0, "there is no load balancer", "nothing will be forwarded")
                .help("add a `[[load_balancer]]`"),
        );
    }
    Some(Config {
        daemon: daemon?,
        load_balancers: load_balancers.into_iter().collect::<Option<_>>()?,
        server_groups: server_groups.into_iter().collect::<Option<_>>()?,
        primary_secondary_groups: primary_secondary_groups.into_iter().collect::<Option<_>>()?,
        access_lists: access_lists.into_iter().collect::<Option<_>>()?,
        api_objects: ApiObjects::default(),
        documents: Documents::default(),
    })
}
