//! Values of one metric: an array that the closed sets' values index, so that counting is one addition without a look-up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::definitions::{Definition, Kind};

/// A metric whose `N` labels are all closed sets. Clones share the values.
#[derive(Clone, Debug)]
pub struct Family<const N: usize> {
    definition: &'static Definition,
    desc: Desc,
    values: Arc<[AtomicU64]>,
}

impl<const N: usize> Family<N> {
    /// All zero. Fails where the definition is no valid metric or does not have `N` labels.
    pub fn new(definition: &'static Definition) -> prometheus::Result<Self> {
        if definition.labels.len() != N {
            return Err(prometheus::Error::Msg(format!("{} does not have {N} labels", definition.name)));
        }
        let entries: usize = definition.labels.iter().map(|label| label.words.len()).product();
        let values = (0..entries).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { definition, desc: describe(definition)?, values })
    }

    /// Adds `count` to the series whose words stand at these indices.
    pub fn add(&self, at: [usize; N], count: u64) {
        if let Some(value) = self.value(at) {
            value.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Adds one.
    pub fn increment(&self, at: [usize; N]) {
        self.add(at, 1);
    }

    /// Sets the series; for gauges.
    pub fn set(&self, at: [usize; N], value: u64) {
        if let Some(slot) = self.value(at) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// The series' value, 0 outside the sets.
    pub fn get(&self, at: [usize; N]) -> u64 {
        self.value(at).map_or(0, |value| value.load(Ordering::Relaxed))
    }

    fn value(&self, at: [usize; N]) -> Option<&AtomicU64> {
        let mut index = 0;
        for (label, at) in self.definition.labels.iter().zip(at) {
            if at >= label.words.len() {
                return None;
            }
            index = index * label.words.len() + at;
        }
        self.values.get(index)
    }
}

impl<const N: usize> Collector for Family<N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = Samples::new(self.definition);
        for (index, value) in self.values.iter().enumerate() {
            let value = value.load(Ordering::Relaxed);
            if value != 0 || self.definition.present {
                family.push(&words_at(self.definition, index), value as f64);
            }
        }
        family.finish()
    }
}

/// A gauge with an open label, whose series come and go. Clones share the values.
#[derive(Clone, Debug)]
pub struct OpenFamily {
    definition: &'static Definition,
    desc: Desc,
    values: Arc<Mutex<BTreeMap<Vec<String>, f64>>>,
}

impl OpenFamily {
    /// Without series. Fails where the definition is no valid metric.
    pub fn new(definition: &'static Definition) -> prometheus::Result<Self> {
        Ok(Self { definition, desc: describe(definition)?, values: Arc::default() })
    }

    /// Makes or changes the series with these words.
    pub fn set(&self, words: &[&str], value: f64) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(words, value);
    }

    /// Takes away the series for which `gone` holds.
    pub fn remove(&self, gone: impl Fn(&[String]) -> bool) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).retain(|words, _| !gone(words));
    }
}

impl Collector for OpenFamily {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = Samples::new(self.definition);
        for (words, value) in self.values.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            family.push(&words, *value);
        }
        family.finish()
    }
}

/// The samples of one metric as they are made at a scrape.
pub struct Samples {
    definition: &'static Definition,
    metrics: Vec<Metric>,
}

impl Samples {
    /// None yet.
    pub fn new(definition: &'static Definition) -> Self {
        Self { definition, metrics: Vec::new() }
    }

    /// One sample; `words` in the order of the definition's labels.
    pub fn push(&mut self, words: &[&str], value: f64) {
        let mut pairs: Vec<LabelPair> = self
            .definition
            .labels
            .iter()
            .zip(words)
            .map(|(label, word)| {
                let mut pair = LabelPair::default();
                pair.set_name(label.name.to_owned());
                pair.set_value((*word).to_owned());
                pair
            })
            .collect();
        // As the library's own metrics: the registry puts the series in order by their pairs.
        pairs.sort();
        let mut metric = Metric::from_label(pairs);
        match self.definition.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    /// As the registry takes it: nothing where there is no sample.
    pub fn finish(self) -> Vec<MetricFamily> {
        if self.metrics.is_empty() {
            return Vec::new();
        }
        let mut family = MetricFamily::default();
        family.set_name(self.definition.name.to_owned());
        family.set_help(self.definition.help.to_owned());
        family.set_field_type(match self.definition.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        family.set_metric(self.metrics);
        vec![family]
    }
}

/// The library's description of a metric.
pub fn describe(definition: &Definition) -> prometheus::Result<Desc> {
    Desc::new(
        definition.name.to_owned(),
        definition.help.to_owned(),
        definition.labels.iter().map(|label| label.name.to_owned()).collect(),
        Default::default(),
    )
}

/// The words of the series at this index of the values.
fn words_at(definition: &Definition, mut index: usize) -> Vec<&'static str> {
    let mut words = vec![""; definition.labels.len()];
    for (word, label) in words.iter_mut().zip(definition.labels).rev() {
        // A closed set has a word at least (an open one has no values), so this divides by no zero.
        let count = label.words.len().max(1);
        *word = label.words.get(index % count).copied().unwrap_or("");
        index /= count;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::definitions::{CONNECTIONS, EXPOSURES, REASSEMBLY_GAPS};
    use super::*;

    #[test]
    fn every_index_has_its_own_words() {
        let family = Family::<4>::new(&CONNECTIONS).unwrap();
        let [a, b, c, d] = [0, 1, 2, 3].map(|label| CONNECTIONS.labels[label].words.len());
        let mut count = 0;
        for at in
            (0..a).flat_map(|a| (0..b).flat_map(move |b| (0..c).flat_map(move |c| (0..d).map(move |d| [a, b, c, d]))))
        {
            family.set(at, 1);
            let collected = family.collect();
            let metric = &collected[0].get_metric()[0];
            assert_eq!(collected[0].get_metric().len(), 1);
            for (label, at) in CONNECTIONS.labels.iter().zip(at) {
                let pair = metric.get_label().iter().find(|pair| pair.name() == label.name).unwrap();
                assert_eq!(pair.value(), label.words[at]);
            }
            family.set(at, 0);
            count += 1;
        }
        assert_eq!(count, family.values.len());
        assert!(family.collect().is_empty(), "a series without events is not printed");
    }

    #[test]
    fn important_series_are_there_from_the_start() {
        let family = Family::<2>::new(&EXPOSURES).unwrap();
        let collected = family.collect();
        assert_eq!(collected[0].get_metric().len(), family.values.len());
    }

    #[test]
    fn outside_the_set_nothing_is_counted() {
        let family = Family::<1>::new(&REASSEMBLY_GAPS).unwrap();
        family.increment([REASSEMBLY_GAPS.labels[0].words.len()]);
        assert!(family.collect()[0].get_metric().iter().all(|metric| metric.get_counter().get_value() == 0.0));
        assert!(Family::<2>::new(&REASSEMBLY_GAPS).is_err());
    }
}
