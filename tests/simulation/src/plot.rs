//! The picture: requests per second at the issuer, around a refresh of all and around an outage.

use crate::model::{BIN, Counts, HOUR, Scenario};
use crate::policy::Policy;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

const SIZE: (u32, u32) = (900, 420);
/// Dark grey on white, which is painted: whatever the page behind it is, that can be read.
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
/// Below one request in ten seconds nothing is drawn.
const RATES: Range<f64> = 1.0..1_000_000.0;

/// Okabe and Ito's palette, which colour-blind readers can tell apart.
fn colour(policy: Policy) -> RGBColor {
    match policy {
        Policy::Ours => RGBColor(0x00, 0x72, 0xb2),
        Policy::OursBroker => RGBColor(0x56, 0xb4, 0xe9),
        Policy::OursNoJitter => RGBColor(0x11, 0x11, 0x11),
        Policy::AzureIdentity => RGBColor(0xd5, 0x5e, 0x00),
        Policy::MsalGo => RGBColor(0x00, 0x9e, 0x73),
        Policy::MsalPython => RGBColor(0xe6, 0x9f, 0x00),
        Policy::MsalNet => RGBColor(0xcc, 0x79, 0xa7),
    }
}

pub(crate) fn draw(file: &Path, scenario: &Scenario, all: &[(Policy, Counts)]) -> anyhow::Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (charts, legend) = root.split_horizontally(755);
    let (quiet, outage) = charts.split_horizontally(330);
    let half_life = scenario.lifetime as f64 / 7200.0;
    let around = half_life - 0.15..half_life + 0.15;
    panel(&quiet, "Half-life of the first tokens", around, None, all)?;
    let hours = |time: u64| time as f64 / HOUR as f64;
    let (start, end) = (hours(scenario.outage.start), hours(scenario.outage.end));
    let around = start - 0.1..end + 0.25;
    panel(&outage, "Outage of the issuer (grey)", around, Some(start..end), all)?;
    for (row, policy) in (0..).zip(Policy::ALL) {
        let y = 60 + 24 * row;
        legend.draw(&PathElement::new([(0, y), (20, y)], style(policy)))?;
        legend.draw(&Text::new(policy.name(), (26, y - 6), text()))?;
    }
    root.present()?;
    Ok(())
}

fn text() -> TextStyle<'static> {
    ("sans-serif", 15).into_font().color(&INK)
}

/// One line often covers another, so that peers' are wide, and ours are drawn over them.
fn style(policy: Policy) -> ShapeStyle {
    let width = match policy {
        Policy::OursNoJitter => 1,
        Policy::Ours | Policy::OursBroker => 2,
        _ => 3,
    };
    colour(policy).stroke_width(width)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    hours: Range<f64>,
    shaded: Option<Range<f64>>,
    all: &[(Policy, Counts)],
) -> anyhow::Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(62)
        .build_cartesian_2d(hours.clone(), RATES.log_scale())?;
    if let Some(outage) = &shaded {
        let corners = [(outage.start, RATES.end), (outage.end, RATES.start)];
        chart.draw_series([Rectangle::new(corners, RGBColor(0xee, 0xee, 0xee).filled())])?;
    }
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
        .axis_style(INK)
        .label_style(text())
        .x_desc("time since the deployment, h:min")
        .y_desc("requests per second at the issuer")
        .x_labels(5)
        .x_label_formatter(&|hours| {
            let minutes = (hours * 60.0).round() as u64;
            format!("{}:{:02}", minutes / 60, minutes % 60)
        })
        .y_label_formatter(&|rate| match *rate as u64 {
            rate if rate >= 1_000_000 => format!("{} M", rate / 1_000_000),
            rate if rate >= 1000 => format!("{} k", rate / 1000),
            rate => rate.to_string(),
        })
        .draw()?;
    for (policy, counts) in all.iter().rev() {
        let point = |(bin, requests): (usize, &u64)| {
            let middle = (bin as u64 * BIN + BIN / 2) as f64 / HOUR as f64;
            // Zero has no place on a logarithmic scale; the foot of it is as good as nothing.
            (middle, (*requests as f64 * 1000.0 / BIN as f64).max(RATES.start))
        };
        let points = counts.issuer.iter().enumerate().map(point);
        let points = points.filter(|(time, _)| hours.contains(time));
        chart.draw_series(LineSeries::new(points, style(*policy)))?;
    }
    Ok(())
}
