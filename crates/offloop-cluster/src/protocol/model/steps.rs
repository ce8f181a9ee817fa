//! The steps that may come next, and their effects.

use super::*;

impl World {
    /// Lists the steps that can come next. The first is that in which nothing goes wrong.
    #[allow(clippy::too_many_lines, reason = "a list")]
    pub(super) fn steps(&self, scene: &Scene) -> Vec<Step> {
        let mut steps = Vec::new();
        let networks = |call: &Call| {
            let mut networks = vec![Network::Carries];
            if self.faults > 0 {
                networks.push(Network::LosesRequest);
                if *call != Call::Read {
                    networks.push(Network::LosesAnswer);
                }
                if matches!(call, Call::Write(..)) {
                    networks.extend([Network::Delays, Network::Doubles]);
                }
            }
            networks
        };
        let client = &self.client;
        match &client.request {
            Some(Request { answer: Some(_), .. }) => steps.push(Step::ClientAnswer),
            Some(Request { call, .. }) => steps.extend(networks(call).into_iter().map(Step::ClientRequest)),
            None => {}
        }
        for (at, worker) in self.workers.iter().enumerate() {
            match &worker.request {
                Some(Request { answer: Some(_), .. }) => steps.push(Step::Answer(at)),
                Some(Request { call, .. }) => {
                    steps.extend(networks(call).into_iter().map(|network| Step::Request(at, network)));
                }
                None => {}
            }
            match worker.question {
                Question::Sent(_) => steps.push(Step::Question(at)),
                Question::Answered(_) => steps.push(Step::QuestionAnswer(at)),
                Question::None => {}
            }
        }
        if !self.answers.is_empty() {
            steps.push(Step::Acknowledge { lost: false });
            if self.faults > 0 {
                steps.push(Step::Acknowledge { lost: true });
            }
        }
        if !self.late.is_empty() {
            steps.push(Step::LateWrite);
        }
        if client.question.is_some() {
            steps.push(Step::CancelQuestion);
        }
        if scene.watches && client.submission.is_some() && client.announced.is_some() {
            steps.push(Step::Announce);
        }
        for (at, worker) in self.workers.iter().enumerate() {
            match worker.process {
                Process::Dies { .. } => steps.push(Step::ProcessEnds(at, Ending::Killed)),
                Process::Runs => steps.push(Step::ProcessEnds(at, Ending::Returns)),
                Process::None => {}
            }
            if worker.process != Process::None && self.crashes > 0 {
                steps.push(Step::ProcessEnds(at, Ending::Crashes));
            }
        }
        for (&message, &held) in &self.queue {
            for (at, worker) in self.workers.iter().enumerate() {
                if !held && worker.is_alive && !worker.drains && worker.delivery.is_none() {
                    steps.push(Step::Deliver(message, at));
                }
            }
        }
        for (at, worker) in self.workers.iter().enumerate() {
            let due = worker.timers.iter().filter(|(_, left)| **left == 0);
            steps.extend(due.map(|(&timer, _)| Step::Fired(at, timer)));
        }
        steps.extend(client.timers.keys().map(|&timer| Step::ClientFired(timer)));
        // Not without bounds, or answers to old deliveries would heap up.
        if self.answers.is_empty() {
            let held = self.queue.iter().filter(|(_, held)| **held);
            steps.extend(held.map(|(&message, _)| Step::Redeliver(message)));
        }
        if scene.watches && client.submission.is_some() && client.request.is_none() && !client.was_told {
            steps.push(Step::LookAgain);
        }
        if scene.cancels && !client.was_stopped && client.submission.is_some() {
            steps.extend([Step::Cancel, Step::QueueTimeout]);
        }
        for (at, worker) in self.workers.iter().enumerate() {
            if worker.is_alive && self.deaths > 0 {
                steps.push(Step::Die(at));
            }
            if worker.is_alive && scene.drains && !worker.drains && at == 0 {
                steps.push(Step::Drain(at));
            }
            if worker.drains && worker.process == Process::Runs {
                steps.push(Step::DrainOver(at));
            }
        }
        if self.workers.iter().all(|worker| !worker.is_alive || worker.drains && worker.delivery.is_none()) {
            steps.push(Step::Spawn(0));
        }
        let is_patient = self.workers.iter().all(|worker| {
            worker.timers.values().all(|left| *left > 0)
                && worker.process != (Process::Dies { at_once: true })
                && worker.request.as_ref().is_none_or(|request| request.patience > 0)
        });
        if scene.exclusive && is_patient {
            steps.push(Step::Tick);
        }
        steps
    }

    #[allow(clippy::too_many_lines, reason = "a list")]
    pub(super) fn step(&mut self, scene: &Scene, step: Step) {
        match step {
            Step::Tick => {
                for worker in &mut self.workers {
                    worker.timers.values_mut().for_each(|left| *left -= 1);
                    if let Some(request) = &mut worker.request {
                        request.patience -= 1;
                    }
                }
            }
            Step::ClientRequest(network) => {
                let call = self.client.request.as_ref().expect("a request").call.clone();
                let (_, answer) = self.carry(scene, &call, network);
                self.client.request.as_mut().expect("a request").answer = Some(answer);
            }
            Step::ClientAnswer => {
                let answer =
                    self.client.request.take().and_then(|request| request.answer).expect("an answer");
                self.client(scene, answer);
            }
            Step::ClientFired(timer) => {
                self.client.timers.remove(&timer);
                self.client(scene, SubmissionEvent::Fired(timer));
            }
            Step::Announce => {
                let stored = self.client.announced.take().expect("an announcement");
                self.client(scene, SubmissionEvent::Announced(stored));
            }
            Step::LookAgain => {
                self.client.announced = None;
                let event = if self.client.timers.contains_key(&SubmissionTimer::Pause) {
                    SubmissionEvent::Reconnected
                } else {
                    SubmissionEvent::LookAgain
                };
                self.client(scene, event);
            }
            Step::Cancel | Step::QueueTimeout => {
                self.client.was_stopped = true;
                let event = if step == Step::Cancel {
                    SubmissionEvent::Cancel
                } else {
                    SubmissionEvent::QueueTimeout
                };
                self.client(scene, event);
            }
            Step::CancelQuestion => {
                if let Some(at) = self.client.question.take().and_then(|id| self.find(id)) {
                    self.worker(scene, at, DeliveryEvent::Cancel);
                }
            }
            Step::Deliver(message, at) => {
                self.queue.insert(message, true);
                let terms = Terms {
                    retry: scene.retry,
                    backoff: Duration::ZERO,
                    on_failure: false,
                    exclusive: scene.exclusive,
                    // A server that was restarted takes each delivery for the first.
                    is_fresh: !scene.keyed,
                    has_task: true,
                    is_late: false,
                    is_replay: false,
                    cancel_if_lost: false,
                    age: Duration::ZERO,
                };
                self.workers[at].delivery = Some((message, Delivery::new(self.workers[at].id, terms)));
                self.worker(scene, at, DeliveryEvent::Begin);
            }
            Step::Redeliver(message) => {
                self.queue.insert(message, false);
            }
            Step::Request(at, network) => {
                let call = self.workers[at].request.as_ref().expect("a request").call.clone();
                let (answer, _) = self.carry(scene, &call, network);
                self.workers[at].request.as_mut().expect("a request").answer = Some(answer);
            }
            Step::Answer(at) => {
                let answer = self.workers[at].request.take().and_then(|request| request.answer);
                self.worker(scene, at, answer.expect("an answer"));
            }
            Step::Fired(at, timer) => {
                self.workers[at].timers.remove(&timer);
                self.worker(scene, at, DeliveryEvent::Fired(timer));
            }
            Step::Question(at) => {
                let Question::Sent(id) = self.workers[at].question else {
                    unreachable!("a question was sent")
                };
                let answer = self.find(id).map(|at| {
                    let delivery = self.workers[at].delivery.as_ref();
                    delivery.is_some_and(|(_, delivery)| delivery.holds())
                });
                self.workers[at].question = answer.map_or(Question::None, Question::Answered);
            }
            Step::QuestionAnswer(at) => {
                let Question::Answered(runs) = self.workers[at].question else {
                    unreachable!("it was answered")
                };
                self.workers[at].question = Question::None;
                self.worker(scene, at, DeliveryEvent::Answered(runs));
            }
            Step::ProcessEnds(at, ending) => {
                self.workers[at].process = Process::None;
                self.crashes -= u8::from(ending == Ending::Crashes);
                let returns = ending == Ending::Returns;
                let verdict = if returns { Verdict::Returned(vec![]) } else { Verdict::Died(vec![]) };
                self.worker(scene, at, DeliveryEvent::Ended(verdict));
            }
            Step::Die(at) => {
                self.deaths -= 1;
                let worker = &mut self.workers[at];
                let sent = worker.request.take();
                *worker = Worker::new(worker.id);
                worker.is_alive = false;
                // What it has sent last may arrive after its death.
                if let Some(Request { call: Call::Write(expected, state), answer: None, .. }) = sent {
                    self.late.push((expected, state));
                }
            }
            Step::Drain(at) => {
                self.workers[at].drains = true;
                self.worker(scene, at, DeliveryEvent::Drain);
            }
            Step::DrainOver(at) => self.worker(scene, at, DeliveryEvent::DrainOver),
            Step::Spawn(at) => {
                let id = self.workers[at].id.to_bits() + 10;
                self.workers[at] = Worker::new(Ulid::from_bits(id));
            }
            Step::LateWrite => {
                let (expected, state) = self.late.remove(0);
                self.write(scene, expected, state);
            }
            Step::Acknowledge { lost } => {
                let (message, removes) = self.answers.remove(0);
                self.faults -= u8::from(lost);
                if removes && !lost {
                    self.queue.remove(&message);
                } else if let (false, Some(held)) = (lost, self.queue.get_mut(&message)) {
                    *held = false;
                }
            }
        }
    }

    /// Goes on without faults until the job has ended and nothing is left of it. Fails with the state in which that
    /// does not happen.
    pub(super) fn comes_to_rest(&self, scene: &Scene) -> Result<(), Box<Self>> {
        let calm = Scene { watches: true, cancels: false, drains: false, ..scene.clone() };
        let mut world = Self { faults: 0, deaths: 0, crashes: 0, ..self.clone() };
        let mut turns = HashMap::new();
        for round in 0..400 {
            let steps = world.steps(&calm);
            // A message is not delivered again while a worker holds it, and a submitter looks again when all is quiet.
            let holds = |message| {
                let holders = world.workers.iter().filter_map(|worker| worker.delivery.as_ref());
                holders.into_iter().any(|(held, _)| *held == message)
            };
            let mut sensible = steps.into_iter().filter(|step| match step {
                Step::Redeliver(message) => !holds(*message),
                Step::DrainOver(_) => false,
                _ => true,
            });
            let Some(first) = sensible.next() else { break };
            // Steps that are always possible take turns, so that none starves.
            let next = match first {
                Step::Deliver(..)
                | Step::Fired(..)
                | Step::ClientFired(_)
                | Step::Redeliver(_)
                | Step::LookAgain
                | Step::Spawn(_) => {
                    let all = std::iter::once(first).chain(sensible);
                    all.min_by_key(|step| turns.get(step).copied().unwrap_or(0)).expect("the first")
                }
                _ => first,
            };
            turns.insert(next, round + 1);
            world.step(&calm, next);
            if world.broken.is_some() {
                break;
            }
        }
        let has_ended = matches!(&world.store, Some(Stored { state: State::End(_), .. }));
        let never_entered = world.last_message == 0 && world.store.is_none();
        let is_clear = world.queue.is_empty() && world.client.submission.is_none() && world.client.was_told;
        let rests = (has_ended || never_entered) && is_clear && world.broken.is_none();
        if rests { Ok(()) } else { Err(Box::new(world)) }
    }
}
