"""What users do: the OpenAI Python client against a disaggregated daemon."""

import openai
import pytest

from conftest import ANSWER_S

MODEL = "dynd-tiny"
RAINBOW = [2789]  # the model goes on: ", orange, yellow, green, blue, indigo and violet ..."
QUESTION = [{"role": "user", "content": "What is dynd?"}]


@pytest.fixture(scope="module")
def client(disagg):
    with openai.OpenAI(base_url=f"{disagg.url}/v1", api_key="none", timeout=ANSWER_S,
                       max_retries=0) as made:
        yield made


def greedy(client, prompt, **fields):
    return client.completions.create(model=MODEL, prompt=prompt, temperature=0, **fields)


def chat(client, **fields):
    return client.chat.completions.create(model=MODEL, messages=QUESTION, **fields)


# --- models ---


def test_models_list_names_the_served_model(client):
    models = client.models.list().data
    assert [m.id for m in models] == [MODEL]
    assert models[0].object == "model" and models[0].owned_by == "dynd"
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


# --- completions ---


def test_completion_of_token_ids(client):
    answer = greedy(client, RAINBOW, max_tokens=10)
    assert answer.object == "text_completion" and answer.model == MODEL
    assert answer.choices[0].text == ", orange, yellow, green, blue, indigo"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == 1
    assert answer.usage.completion_tokens == 10
    assert answer.usage.total_tokens == 11


def test_completion_of_text_equals_that_of_its_ids(client, disagg):
    text = "The seven colors of the rainbow are"
    ids = disagg.http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    by_text = greedy(client, text, max_tokens=16)
    assert by_text.choices[0].text == greedy(client, ids, max_tokens=16).choices[0].text
    assert by_text.usage.prompt_tokens == len(ids)
    back = disagg.http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert back == text


def test_completion_of_a_list_of_texts_answers_each(client):
    texts = ["In spring the flowers", "Two plus two is", "The sun"]
    answer = greedy(client, texts, max_tokens=6)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    for text, choice in zip(texts, answer.choices):
        assert choice.text == greedy(client, text, max_tokens=6).choices[0].text


def test_completion_of_lists_of_ids_with_two_choices_orders_them(client):
    answer = greedy(client, [RAINBOW, [2750]], max_tokens=4, n=2)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    texts = [c.text for c in answer.choices]
    assert texts[0] == texts[1] and texts[2] == texts[3] and texts[0] != texts[2]
    assert answer.usage.completion_tokens == 16


def test_streamed_completion_equals_the_whole_one(client):
    whole = greedy(client, RAINBOW, max_tokens=24).choices[0]
    chunks = list(greedy(client, RAINBOW, max_tokens=24, stream=True,
                         stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.text
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == "length" and not any(reasons[:-1])
    assert len({c.id for c in chunks}) == 1
    assert len(chunks) > 12, "the text came in one piece"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 24


def test_streamed_choices_equal_whole_ones(client):
    fields = {"max_tokens": 12, "n": 2, "seed": 11}
    whole = client.completions.create(model=MODEL, prompt=RAINBOW, **fields)
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(model=MODEL, prompt=RAINBOW, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [texts[0], texts[1]] == [c.text for c in whole.choices]


# --- sampling ---


def test_same_seed_same_text_and_another_seed_another(client):
    def sample(seed):
        return client.completions.create(model=MODEL, prompt=[1013], seed=seed, temperature=2,
                                         max_tokens=16).choices[0].text

    assert sample(5) == sample(5)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_choices_of_one_seed_differ(client):
    answer = client.completions.create(model=MODEL, prompt=[1013], seed=5, temperature=2, n=4,
                                       max_tokens=16)
    assert len({c.text for c in answer.choices}) > 1


def test_top_k_one_is_greedy(client):
    best = greedy(client, RAINBOW, max_tokens=12).choices[0].text
    drawn = client.completions.create(model=MODEL, prompt=RAINBOW, temperature=2, max_tokens=12,
                                      extra_body={"top_k": 1})
    assert drawn.choices[0].text == best


# --- ends ---


@pytest.mark.parametrize("stop", [" green", ["nothing", " green"], "gre", "ellow, gr"])
def test_stop_string_cuts_the_text_before_it(client, stop):
    whole = ", orange, yellow, green, blue"
    cut = min(whole.index(s) for s in ([stop] if isinstance(stop, str) else stop) if s in whole)
    choice = greedy(client, RAINBOW, max_tokens=30, stop=stop).choices[0]
    assert (choice.text, choice.finish_reason) == (whole[:cut], "stop")
    chunks = list(greedy(client, RAINBOW, max_tokens=30, stop=stop, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == whole[:cut]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_model_ends_by_itself(client):
    choice = greedy(client, RAINBOW, max_tokens=200).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.text.endswith("rain.")


def test_ignore_eos_goes_on_to_the_length(client):
    answer = greedy(client, RAINBOW, max_tokens=60, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 60


# --- chat ---


def test_chat_answers(client):
    answer = chat(client, temperature=0, max_completion_tokens=4)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "dynd is a daemon"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


def test_streamed_chat_equals_the_whole_one(client):
    whole = chat(client, temperature=0).choices[0]
    chunks = list(chat(client, temperature=0, stream=True))
    first = chunks[0].choices[0].delta
    assert first.role == "assistant" and first.content
    assert not any(c.choices[0].delta.role for c in chunks[1:])
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "stop"


def test_streamed_chat_with_two_choices_gives_each_its_role(client):
    chunks = list(chat(client, seed=3, n=2, max_tokens=6, stream=True))
    for index in (0, 1):
        deltas = [c.choices[0].delta for c in chunks if c.choices[0].index == index]
        assert [d.role for d in deltas if d.role] == ["assistant"]


def test_chat_with_system_message_and_history(client):
    messages = [{"role": "system", "content": "You are brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": [{"type": "text", "text": "What is dynd?"}]}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0,
                                            max_tokens=5)
    assert answer.usage.completion_tokens <= 5
    assert answer.choices[0].message.content


def test_max_completion_tokens_goes_before_max_tokens(client):
    assert chat(client, max_completion_tokens=2, max_tokens=9, extra_body={"ignore_eos": True}
                ).usage.completion_tokens == 2


def test_context_is_the_bound_of_prompt_and_answer(client):
    context = client.models.list().data[0].max_model_len
    answer = greedy(client, [7] * (context - 3), max_tokens=50, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == context


# --- errors ---

BAD_FIELDS = [
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 1000}, "n", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 2.5}, "max_tokens", None),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"logprobs": 5}, "logprobs", "unsupported_value"),
    ({"presence_penalty": 1}, "presence_penalty", "unsupported_value"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [1, 100000]}, "prompt", "invalid_value"),
    ({"prompt": {}}, "prompt", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
]


@pytest.mark.parametrize("fields,param,code", BAD_FIELDS, ids=lambda v: str(v)[:30])
def test_bad_field_is_refused_with_its_name(client, fields, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=RAINBOW, extra_body=fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert code is None or caught.value.code == code
    assert param in caught.value.body["message"]


def test_bad_chat_is_refused(client):
    for messages in ([], [{"role": "user"}], [{"role": "nobody", "content": "x"}], "x"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=messages)
        assert caught.value.param.startswith("messages")


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="another", prompt="x")
    assert caught.value.code == "model_not_found"


def test_prompt_longer_than_the_context_is_refused(client):
    context = client.models.list().data[0].max_model_len
    with pytest.raises(openai.BadRequestError) as caught:
        greedy(client, [7] * context, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"


def test_broken_off_stream_frees_its_blocks(client, disagg):
    for _ in range(4):
        with greedy(client, [7] * 100, max_tokens=500, stream=True,
                    extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
    disagg.wait_idle()
