//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};

use slb_api::types::ReasonCount;

/// An empty table. Columns from index `numbers` on are right-aligned.
pub fn table<const COLUMNS: usize>(header: [&str; COLUMNS], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Packets by verdict and reason.
pub(super) fn reasons<'a>(counted: impl IntoIterator<Item = &'a ReasonCount>) -> Table {
    let mut table = table(["verdict", "reason", "packets"], 2);
    for reason in counted {
        table.add_row([reason.verdict.clone(), reason.reason.clone(), reason.packets.to_string()]);
    }
    table
}

/// Packets of one verdict, by reason.
pub(super) fn reasons_of_one_verdict<'a>(counted: impl IntoIterator<Item = &'a ReasonCount>) -> Table {
    let mut table = table(["reason", "packets"], 1);
    for reason in counted {
        table.add_row([reason.reason.clone(), reason.packets.to_string()]);
    }
    table
}
