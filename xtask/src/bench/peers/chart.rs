//! The figures as a picture: a bar for each client in each case, CPU per record, with the least and the most as a line.
//! Each case has a scale of its own: a record of 1 KB under zstd costs a hundred times one of 100 B.

use std::fmt::Write as _;

use super::figures::Table;

const NAME_WIDTH: f64 = 190.0;
const BAR_WIDTH: f64 = 430.0;
const WIDTH: f64 = 800.0;
const ROW: f64 = 20.0;
const HEADING: f64 = 34.0;

/// An SVG that needs nothing else, readable on white and on black.
pub(super) fn svg(against: &str, tables: &[Table]) -> String {
    let rows: usize = tables.iter().map(|table| table.rows.len()).sum();
    let height = HEADING + 8.0 + tables.len() as f64 * HEADING + rows as f64 * ROW;
    let mut drawing = Drawing { text: String::new() };
    drawing.raw(&format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\">"
    ));
    drawing.words(4.0, 18.0, "start", &format!("CPU of the client per record, µs: less is better (broker: {against})"));
    let mut y = HEADING;
    for table in tables {
        y += HEADING - ROW;
        drawing.raw(&format!("<g font-weight=\"bold\"><text x=\"4\" y=\"{y}\">{}</text></g>", escaped(&table.title)));
        y += 6.0;
        let most = table.rows.iter().filter_map(|row| row.figures.as_ref().ok()).map(|figures| figures.cpu.most);
        let scale = BAR_WIDTH / most.fold(f64::MIN_POSITIVE, f64::max);
        for row in &table.rows {
            let base = y + ROW * 0.7;
            drawing.words(NAME_WIDTH - 6.0, base, "end", &row.name);
            match &row.figures {
                Err(failure) => {
                    drawing.words(NAME_WIDTH + 4.0, base, "start", &shortened(&format!("failed: {failure}")))
                }
                Ok(figures) => {
                    let colour = if row.is_ours { "#2a78b8" } else { "#b0a080" };
                    let end = NAME_WIDTH + figures.cpu.median * scale;
                    let (left, right) = (NAME_WIDTH + figures.cpu.least * scale, NAME_WIDTH + figures.cpu.most * scale);
                    drawing.raw(&format!(
                        "<rect x=\"{NAME_WIDTH}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
                        y + 3.0,
                        end - NAME_WIDTH,
                        ROW - 6.0
                    ));
                    drawing
                        .raw(&format!("<path d=\"M{left:.1} {0:.1}H{right:.1}\" stroke=\"#808080\"/>", y + ROW / 2.0));
                    let times = figures.ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.1}×)"));
                    let figure = format!("{:.3}{times}", figures.cpu.median);
                    drawing.words(right.max(end) + 5.0, base, "start", &figure);
                }
            }
            y += ROW;
        }
        y += ROW - 6.0;
    }
    drawing.raw("</svg>");
    drawing.text
}

struct Drawing {
    text: String,
}

impl Drawing {
    fn raw(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn words(&mut self, x: f64, y: f64, anchor: &str, words: &str) {
        // Writing to a string does not fail.
        let _ =
            writeln!(self.text, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(words));
    }
}

/// As much as has room beside a client's name.
fn shortened(text: &str) -> String {
    const ROOM: usize = ((WIDTH - NAME_WIDTH) / 6.6) as usize;
    if text.chars().count() <= ROOM {
        return text.to_owned();
    }
    text.chars().take(ROOM - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_failure_stays_in_the_picture() {
        assert_eq!(shortened("failed: not built"), "failed: not built");
        let long = shortened(&"µ".repeat(500));
        assert!(long.ends_with('…') && long.chars().count() < 100, "{long}");
    }
}
