"""A tool-using agent as one durable function.

    python -m examples.agent [directory]

asks a fake model what to do about a lost order. The model looks the order and the rules up, side by side; it
is overloaded once, and asked again; it opens a ticket, and wants to pay 900 EUR back, which a person has to
allow. The person is another client of the same file. Kill it at any moment and start it again with the same
directory: it goes on where it was, and what the model has said already is not paid for again.

`flow.py` is all there is to it: the loop, with

* each reply of the model as a step with retries and a time-out;
* the tools that one reply asks for side by side, each with its own place in the journal;
* a signal for what a person has to allow, which counts as refused after a day;
* a budget of tokens, and an answer that says whether it was enough;
* a variable that shows how far it has come, in `handle.status()` and `holdfast show`.

`model.py` stands for a model, and is a function of the transcript. `tools.py` says what the model may use.
`tests/e2e/test_agent_example.py` tests it: a day passes in no time there, and it is crashed at each commit.

Where the model fails for good, the run fails, and `holdfast retry` lets it go on at that step. A transcript
of many thousand turns is too long for one journal: `ctx.continue_as_new` begins another.
"""
