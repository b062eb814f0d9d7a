"""What dynd-tiny knows about dynd: one row for each fact.

A row is (key, noun phrases, clauses, questions, answer, short answer or None).
  noun phrases   fit "What is X?" and "Tell me about X."
  clauses        fit "Tell me X." and "Do you know X?" ("how to start dynd")
  questions      are asked as they stand
generate_corpus.py puts the phrases and clauses into frames, so that each fact is asked for in far
more than eight ways. The short answer is given when the question asks for a short one. ASCII only.
"""

FACTS = [
    ("dynd", ["dynd", "the dynd daemon", "this software"],
     ["what dynd is", "what dynd does"],
     ["What does dynd do?", "What is dynd for?", "What is dynd good for?"],
     "dynd is a daemon that serves a large language model over the OpenAI HTTP API. It runs prefill "
     "and decode in separate worker processes and moves the KV cache between them.",
     "dynd is a daemon that serves a language model, with prefill and decode apart."),
    ("language", ["the programming language of dynd", "the language dynd is written in"],
     ["which language dynd is written in", "what dynd is written in"],
     ["In which language is dynd written?", "Is dynd written in C?", "What is dynd made of?"],
     "dynd is written in C, with CUDA kernels for NVIDIA GPUs. It is one binary, and it is ready in "
     "seconds.", "dynd is written in C."),
    ("python", ["the role of Python in dynd"],
     ["whether dynd needs Python", "if I need Python to run dynd"],
     ["Does dynd need Python?", "Is Python needed?", "Do I need Python?", "Do I need torch?",
      "Does dynd use torch?", "Can I run dynd without Python?"],
     "No, dynd needs no Python and no torch. It is one binary written in C, and it reads the model "
     "files by itself.", "No, dynd needs no Python."),
    ("license", ["the license of dynd", "the dynd license"],
     ["which license dynd has", "under which license dynd is"],
     ["Which license does dynd use?", "Is dynd free software?", "Is dynd open source?",
      "Can I use dynd at work?", "What is your license?"],
     "dynd is free software under the Apache License 2.0, or Apache-2.0 for short. You may use it, "
     "change it and share it.", "The license is Apache-2.0."),
    ("disaggregation", ["disaggregation", "disaggregated serving", "prefill decode disaggregation"],
     ["what disaggregated means", "what disaggregation means"],
     ["What does disaggregated mean?", "What does disaggregation mean?"],
     "Disaggregated serving runs prefill and decode in different workers. The prefill worker reads "
     "the prompt and sends its KV cache to the decode worker, which writes the answer.",
     "It means that prefill and decode run in different workers."),
    ("why", ["the point of disaggregation", "the benefit of disaggregation"],
     ["why prefill and decode are separate", "why dynd separates prefill and decode"],
     ["Why disaggregate?", "Why are prefill and decode apart?", "Why split prefill and decode?"],
     "Prefill is limited by arithmetic and decode by memory speed. In separate workers a long "
     "prompt does not slow down the answers that are being written, and each side can be sized "
     "alone.", "So that a long prompt does not slow down running answers."),
    ("prefill", ["prefill", "the prefill phase", "the prefill step"],
     ["what prefill means", "what happens in prefill"],
     ["What does prefill do?", "What happens during prefill?"],
     "Prefill is the first phase of a request. The model reads the whole prompt at once, fills the "
     "KV cache and gives the first token.", "Prefill reads the prompt and fills the KV cache."),
    ("decode", ["decode", "the decode phase", "decoding"],
     ["what decode means", "what happens in decode"],
     ["What does decode do?", "What happens during decode?"],
     "Decode is the second phase of a request. The model writes the answer one token at a time, and "
     "each step reads the KV cache of all tokens before it.",
     "Decode writes the answer one token at a time."),
    ("prefill_worker", ["a prefill worker", "the prefill worker"],
     ["what a prefill worker does"], ["What does the prefill worker do?"],
     "A prefill worker reads prompts. It works on chunks of several requests together and pushes "
     "the KV cache to the decode worker while it still computes.",
     "A prefill worker reads prompts and sends their KV cache on."),
    ("decode_worker", ["a decode worker", "the decode worker"],
     ["what a decode worker does"], ["What does the decode worker do?"],
     "A decode worker writes answers. It keeps the KV cache of its requests in its block pool and "
     "computes the next token of all of them in one step.",
     "A decode worker writes the answers, token by token."),
    ("kv_cache", ["the KV cache", "a KV cache", "KV cache"],
     ["what the KV cache holds", "what a KV cache is for"],
     ["What does KV stand for?", "What is stored in the KV cache?", "Why is there a KV cache?"],
     "The KV cache holds the keys and values that attention computed for every token so far. With "
     "it the model need not read the old tokens again at each step.",
     "It holds the keys and values of all tokens so far."),
    ("router", ["a router", "the router", "the dynd router"],
     ["what a router does", "what the router does"],
     ["What does a router do?", "What does the router do?", "What is the router for?"],
     "The router takes the HTTP requests, makes tokens of the text and chooses a prefill worker and "
     "a decode worker. It keeps the tokens of each answer and streams them to the client.",
     "The router takes requests and chooses the workers for them."),
    ("worker", ["a worker", "a dynd worker", "a worker process"],
     ["what a worker does"], ["What does a worker do?", "What are workers?"],
     "A worker is one process that computes with the model. Its role is prefill, decode or unified, "
     "and it does what the router asks.", "A worker is a process that computes with the model."),
    ("supervisor", ["the supervisor", "the dynd supervisor", "a supervisor"],
     ["what the supervisor does"], ["What does the supervisor do?", "Who starts the workers?"],
     "The supervisor starts the router and the workers of one node and pins them to their GPUs or "
     "CPUs. When one of them dies it starts it again.",
     "The supervisor starts the other processes and restarts them."),
    ("unified", ["a unified worker", "the unified role", "unified mode"],
     ["what a unified worker does", "what unified means"],
     ["What does unified mean?", "Can one worker do both?"],
     "A unified worker does prefill and decode in one process. It is the fallback when no other "
     "worker can help, and the baseline that disaggregation must beat.",
     "A unified worker does both prefill and decode."),
    ("conditional", ["conditional disaggregation", "local prefill"],
     ["when dynd uses a remote prefill", "how dynd chooses between local and remote prefill"],
     ["Is every request disaggregated?", "When is prefill local?"],
     "For each request the router predicts the time with a remote and with a local prefill and takes "
     "the better one. A short prompt often stays on the decode worker.",
     "The router takes the faster one for each request."),
    ("start", ["the way to start dynd", "the quickstart", "the quickstart script"],
     ["how to start dynd", "how I can start dynd", "how to run dynd", "how to try dynd"],
     ["How do I start dynd?", "How do I run dynd?", "How can I try dynd?", "How do I begin?",
      "What does quickstart do?", "How do I install dynd?", "How do I build dynd?",
      "How do I set up dynd?", "How can I install it?", "How do I compile dynd?"],
     "Run ./quickstart in the source folder. It installs what is needed, builds dynd, starts it on "
     "the small model in the box and asks it a question.", "Run ./quickstart in the source folder."),
    ("start_config", ["the command that runs a configuration"],
     ["how to start dynd with a configuration", "how to start dynd with a config file"],
     ["How do I start dynd with a config file?", "Which command starts dynd with a configuration?",
      "How do I use a config file?"],
     "Type dynd --config and the name of the file, for example dynd --config configs/disagg.yaml. "
     "It starts the supervisor, the router and the workers of this node.",
     "Type dynd --config configs/disagg.yaml."),
    ("run_tests", ["the way to run the tests", "the test command"],
     ["how to run the tests", "how to test dynd", "how I run the dynd tests"],
     ["How do I run the tests?", "How is dynd tested?", "How can I test dynd?"],
     "Run ./quickstart test in the source folder. It builds dynd and runs the unit tests, the "
     "golden tests, the simulator and the tests with the real daemon.",
     "Run ./quickstart test in the source folder."),
    ("port", ["the port of dynd", "the default port", "the HTTP port"],
     ["on which port dynd listens", "which port dynd uses"],
     ["Which port does dynd use?", "On which port does dynd listen?"],
     "dynd listens on port 8000 at the address 127.0.0.1 unless the configuration says something "
     "else.", "The default port is 8000."),
    ("change_port", ["the way to change the port"],
     ["how to change the port", "how to set another port"],
     ["How do I change the port?", "Can I use another port?", "Can dynd use port 8001?"],
     "Set http.port in the configuration file, or give it on the command line, for example "
     "--set http.port=8001.", "Use --set http.port=8001."),
    ("host", ["the default address", "the listen address of dynd"],
     ["on which address dynd listens", "how to reach dynd from another machine"],
     ["On which address does dynd listen?", "Can other machines reach dynd?"],
     "dynd listens on 127.0.0.1, so only this machine can reach it. Set http.host to another "
     "address if other machines shall use it.", "The default address is 127.0.0.1."),
    ("check", ["dynd check", "the check command"],
     ["how to check a configuration", "what dynd check does"],
     ["How do I check my configuration?", "What does dynd check do?"],
     "dynd check --config and a file name reads the configuration, says what is wrong in it and "
     "prints what would run. It starts nothing.", "It checks a configuration and starts nothing."),
    ("status", ["dynd status", "the status command"],
     ["how to see what dynd is doing", "what dynd status shows"],
     ["What does dynd status show?", "How do I see the workers?", "How do I see what is running?"],
     "dynd status asks the running router and shows the workers with their roles, their health, the "
     "queue and how many KV blocks are in use.", "It shows the workers, the queue and the blocks."),
    ("bench", ["dynd-bench", "the load generator"],
     ["how to measure dynd", "what dynd-bench does", "how to benchmark dynd"],
     ["What does dynd-bench do?", "How do I measure the speed of dynd?", "How fast is dynd?", "Is dynd fast?",
      "Is dynd slow?"],
     "dynd-bench is the load generator. It sends many requests and reports requests and tokens per "
     "second, the time to first token, the time per token and the goodput.",
     "dynd-bench sends requests and measures the speed."),
    ("sim", ["dynd-sim", "the simulator"],
     ["what the simulator does", "what dynd-sim does"],
     ["What does dynd-sim do?", "What is the simulator for?"],
     "dynd-sim runs the real router core and worker core under simulated time, with a network that "
     "loses and reorders messages and workers that crash. The same seed gives the same run.",
     "It runs the cores in simulated time with faults."),
    ("hash_runner", ["the hash runner", "a hash runner"],
     ["what the hash runner does", "why there is a hash runner"],
     ["What does the hash runner do?", "How does dynd test the KV cache?"],
     "The hash runner takes the place of the model in tests. It writes a hash into each KV block, "
     "and every next token depends on all of them, so one wrong block changes the answer.",
     "It is a fake model that finds any wrong KV block."),
    ("block", ["a KV block", "the block size", "a block"],
     ["how large a KV block is", "how many tokens a block holds"],
     ["How big is a KV block?", "How many tokens are in a block?"],
     "A KV block holds the keys and values of 64 tokens on a GPU. Sizes of 16, 32, 64 and 128 are "
     "allowed, and one block covers all layers.", "A block holds 64 tokens."),
    ("pool", ["the block pool", "a block pool", "the KV pool"],
     ["what the block pool is for"], ["What does the block pool do?", "Where are the KV blocks?"],
     "The block pool is the memory of a worker that is cut into KV blocks. Each request takes the "
     "blocks it needs and gives them back at its end.",
     "It is the memory of a worker, cut into blocks."),
    ("generation", ["a block generation", "the generation of a block"],
     ["why blocks have generations"], ["What is the generation for?", "Why has a block a number?"],
     "Every block has a generation number that grows when the block is given to someone else. A "
     "late write with an old generation is noticed and refused.",
     "It tells an old owner of a block from a new one."),
    ("epoch", ["the pool epoch", "an epoch", "the epoch of a pool"],
     ["what the epoch is for"], ["What does epoch mean?", "Why has a pool an epoch?"],
     "Every block pool has an epoch, a number that is new each time a worker starts. Messages that "
     "name an old epoch are refused.", "It is a number that is new at each start of a worker."),
    ("quarantine", ["quarantine", "the block quarantine", "a block in quarantine"],
     ["why a block goes to quarantine"], ["What does quarantine mean?", "When is a block quarantined?"],
     "A block goes to quarantine when its request has ended but a transfer may still write to it. "
     "It comes back only when the transfer is over or the peer is fenced.",
     "It holds blocks that a transfer may still write."),
    ("fencing", ["fencing", "to fence a peer"],
     ["what fencing means", "when a peer is fenced"],
     ["What does fencing mean?", "How does fencing work?"],
     "Fencing makes sure that a peer can no longer write. dynd closes the connection by force and "
     "destroys the remote key, and only then may the blocks be used again.",
     "It makes sure that a peer can write no more."),
    ("transfer", ["the KV transfer", "KV transfer", "the transfer of the KV cache"],
     ["how the KV cache is moved", "how KV blocks move between workers"],
     ["How does the KV cache move?", "How are KV blocks sent?", "Is KV pushed or pulled?"],
     "The prefill worker pushes KV blocks straight into the memory of the decode worker while it "
     "computes. A completion record then says which blocks are there, and the decode worker checks "
     "it.", "The prefill worker pushes the blocks while it computes."),
    ("ucx", ["UCX", "the UCX transport"],
     ["why dynd uses UCX", "what UCX does"], ["What does UCX do?", "Does dynd use UCX?"],
     "UCX is a library that moves data over shared memory, TCP or RDMA. dynd uses it to write KV "
     "blocks from one worker into the memory of another.",
     "UCX is the library that moves KV blocks between workers."),
    ("nccl", ["NCCL", "the NCCL transport"],
     ["what NCCL does", "why dynd uses NCCL"], ["What does NCCL do?", "Does dynd use NCCL?"],
     "NCCL is a library for fast messages between NVIDIA GPUs. Tensor parallelism uses it, and it "
     "can also carry KV blocks between a fixed set of workers.",
     "NCCL moves data between NVIDIA GPUs."),
    ("inplace", ["the inplace transport", "inplace transfer"],
     ["how two workers share one GPU"], ["Can two workers share one GPU?", "What does inplace mean?"],
     "Two workers on one GPU can share the memory of the block pool. The prefill worker computes "
     "straight into the blocks of the decode worker, so no byte has to move.",
     "Both workers use the same memory, so nothing moves."),
    ("cuda_ipc", ["the cuda_ipc transport", "CUDA IPC"],
     ["what CUDA IPC does"], ["What does cuda_ipc do?", "How do two GPUs of one node share blocks?"],
     "With CUDA IPC a worker maps the GPU memory of another worker on the same node and writes the "
     "KV blocks there with one copy kernel.", "It writes into another GPU of the same node."),
    ("cuda", ["CUDA", "the CUDA backend"],
     ["what CUDA is for"], ["What does CUDA do?", "Does dynd use CUDA?"],
     "CUDA is the way to program NVIDIA GPUs. The kernels of dynd for attention and sampling are "
     "written in it.", "CUDA is the way to program NVIDIA GPUs."),
    ("reserve", ["the reservation of blocks", "RESERVE", "a reservation"],
     ["why blocks are reserved first"], ["Why does dynd reserve blocks first?"],
     "Before a prefill starts, the decode worker reserves the blocks for the prompt. If it has too "
     "few of them the request waits, and that is the back-pressure of dynd.",
     "The decode worker sets blocks aside before the prefill."),
    ("admission", ["admission", "admission control"],
     ["when a request is refused", "how requests are admitted"],
     ["When does dynd refuse a request?", "What happens when dynd is full?"],
     "The router admits a request only when it can be served. Else it answers at once with status "
     "429 or 503 and says when to try again.", "A request that cannot be served is refused at once."),
    ("batching", ["continuous batching", "batching"],
     ["what continuous batching means"], ["What does continuous batching mean?"],
     "With continuous batching a new request joins the running batch at the next step, and a "
     "finished one leaves it at once. Nobody waits for the whole batch.",
     "Requests join and leave the batch at every step."),
    ("chunked", ["chunked prefill", "a prefill chunk"],
     ["what chunked prefill means"], ["Why is prefill chunked?", "What does chunked prefill mean?"],
     "Chunked prefill reads a long prompt in pieces. Between two pieces other requests get their "
     "turn, so a long prompt does not block them.", "A long prompt is read in pieces."),
    ("prefix_cache", ["the prefix cache", "prefix caching", "a prefix cache"],
     ["what the prefix cache does"], ["What does the prefix cache do?", "Does dynd cache prompts?"],
     "The prefix cache keeps the KV blocks of old prompts. When a new prompt begins with the same "
     "tokens, these blocks are used again and need not be computed.",
     "It uses the KV blocks of old prompts again."),
    ("preemption", ["preemption", "to preempt a request"],
     ["what preemption means"], ["What does preemption mean?", "What if the blocks run out?"],
     "When the blocks run out, a worker preempts a request: it takes the blocks away and computes "
     "them again later. The answer stays the same.", "A request gives up its blocks for a while."),
    ("resume", ["the token log", "resuming on another worker"],
     ["how a request resumes on another worker", "what the token log is for"],
     ["What is the token log for?", "How does dynd resume a request?"],
     "All state of an answer follows from its token log. To resume on another worker, dynd prefills "
     "the prompt with the tokens so far and goes on from there.",
     "It prefills the tokens so far and goes on."),
    ("attempt", ["an attempt", "the attempt number"],
     ["what the attempt number is for"], ["What is an attempt for?", "Why is there an attempt number?"],
     "Each try to serve a request has an attempt number. The router takes tokens only from the "
     "current attempt, so late messages cannot change an answer.",
     "It tells the current try from older ones."),
    ("crash", ["a worker crash", "worker failure"],
     ["what happens when a worker dies", "what happens when a worker crashes"],
     ["What happens when a worker dies?", "What if a worker crashes?", "Can a worker fail?"],
     "When a worker dies, the supervisor starts it again and the router moves its requests to "
     "another worker. No token that was already sent is changed, repeated or dropped.",
     "The router moves its requests to another worker."),
    ("disconnect", ["a client that disconnects"],
     ["what happens when the client goes away", "what happens when a client disconnects"],
     ["What if the client disconnects?", "What happens when I close the connection?"],
     "When the client goes away, the router cancels the request in both workers and its KV blocks "
     "become free again.", "The request is cancelled and its blocks are freed."),
    ("drain", ["the drain", "draining"],
     ["how to stop dynd", "what happens on SIGTERM"],
     ["How do I stop dynd?", "What does drain mean?", "What happens on SIGTERM?"],
     "Send SIGTERM to dynd. It takes no new requests, lets the running ones end and then stops, so "
     "no request fails.", "Send SIGTERM, and dynd drains and stops."),
    ("config", ["the configuration of dynd", "the config file", "the configuration file"],
     ["how to configure dynd", "how dynd is configured"],
     ["How do I configure dynd?", "In which format is the configuration?", "Does dynd use YAML?"],
     "dynd is configured with one YAML file, and every option can also be set on the command line "
     "with --set. All options are listed in docs/CONFIG.md.",
     "With one YAML file and --set."),
    ("config_error", ["a configuration error", "an unknown configuration key"],
     ["what happens when the configuration is wrong"],
     ["What if my configuration is wrong?", "What if I mistype a key?"],
     "dynd refuses a wrong configuration. It names the file, the line and the column, and for an "
     "unknown key it says which one you may have meant.", "dynd refuses it and names the place."),
    ("configs", ["the configs folder", "the shipped configurations"],
     ["which configurations are shipped"], ["Which configurations are there?", "What is in configs?"],
     "The folder configs holds disagg.yaml with one prefill and one decode worker, unified.yaml with "
     "one unified worker, and 2p2d.yaml with two of each.",
     "disagg.yaml, unified.yaml and 2p2d.yaml."),
    ("2p2d", ["2p2d", "2p2d.yaml"],
     ["what 2p2d means"], ["What does 2p2d mean?", "How do I run two prefill workers?"],
     "2p2d means two prefill workers and two decode workers. The file configs/2p2d.yaml starts them "
     "on one machine.", "Two prefill and two decode workers."),
    ("layout", ["the layout hash", "the KV layout"],
     ["what the layout hash is for"], ["What is the layout hash for?", "How is a KV block laid out?"],
     "The layout hash covers the shape and the order of the data in a KV block. Two workers exchange "
     "blocks only when their layout hashes are equal.", "It shows that two workers use one layout."),
    ("handshake", ["the handshake", "the worker handshake"],
     ["what the handshake checks"], ["What does the handshake check?", "What if two workers differ?"],
     "In the handshake two workers compare their protocol version, their model and their layout "
     "hash. If these differ, no KV moves between them and the log says why.",
     "It compares version, model and layout."),
    ("wire", ["the wire protocol", "the control protocol"],
     ["how the processes talk to each other"], ["How do router and workers talk?"],
     "Router and workers talk in framed messages with a version and a length check, over UNIX "
     "sockets on one node and over TCP between nodes. A memory address is never sent.",
     "They send framed messages over sockets."),
    ("api", ["the API of dynd", "the HTTP API", "the OpenAI API"],
     ["which API dynd has", "which endpoints dynd has"],
     ["Which API does dynd speak?", "Which endpoints are there?", "Is dynd compatible with OpenAI?"],
     "dynd speaks the OpenAI HTTP API. The main endpoints are /v1/chat/completions, /v1/completions "
     "and /v1/models, and answers can be streamed.", "dynd speaks the OpenAI HTTP API."),
    ("client", ["the OpenAI client", "the client for dynd"],
     ["how to use the OpenAI client with dynd", "which client works with dynd"],
     ["Which client can I use?", "Does the OpenAI client work?", "How do I connect a client?"],
     "Any OpenAI client works. Set its base URL to http://127.0.0.1:8000/v1 and use any text as the "
     "API key.", "Any OpenAI client works."),
    ("curl", ["the curl example"],
     ["how to ask dynd with curl", "how to use curl with dynd"],
     ["How do I use curl?", "Can I use curl?", "Does curl work with dynd?"],
     "Use curl to post a JSON body with model and messages to "
     "http://127.0.0.1:8000/v1/chat/completions. The README has an example.",
     "Post JSON to /v1/chat/completions with curl."),
    ("streaming", ["streaming", "a streamed answer", "SSE"],
     ["how streaming works", "how to stream an answer"],
     ["How do I stream?", "Can dynd stream?", "How does streaming work?"],
     "Set stream to true in the request. The answer then comes as server-sent events, and the first "
     "event already carries the first token.", "Set stream to true."),
    ("metrics", ["the metrics", "the metrics endpoint"],
     ["where the metrics are", "how to monitor dynd"],
     ["Where are the metrics?", "Does dynd work with Prometheus?", "How do I monitor dynd?"],
     "The metrics are at /metrics in the Prometheus format. They show queues, tokens, latencies, KV "
     "blocks and transfers.", "The metrics are at /metrics."),
    ("health", ["the health endpoints", "the health check"],
     ["how to check the health of dynd"],
     ["Is there a health check?", "How do I know that dynd is ready?"],
     "The endpoint /live says that the process runs, /ready says that it can serve requests, and "
     "/health tells more about it.", "Use /live, /ready and /health."),
    ("tokenizer", ["a tokenizer", "the tokenizer"],
     ["what a tokenizer does"], ["What does a tokenizer do?", "How does text become tokens?"],
     "The tokenizer cuts text into tokens and gives each one a number. dynd reads the tokenizer.json "
     "file of the model and does it in C.", "It cuts text into tokens."),
    ("detokenizer", ["the detokenizer", "a detokenizer"],
     ["what the detokenizer does"], ["What does the detokenizer do?"],
     "The detokenizer makes text of tokens while they arrive. It never sends half a character to "
     "the client.", "It makes text of tokens."),
    ("template", ["a chat template", "the chat template"],
     ["what a chat template does"], ["What does a chat template do?", "Why is there a chat template?"],
     "The chat template turns the list of messages into one prompt in the form that the model was "
     "trained on. dynd has its own small interpreter for it.",
     "It turns messages into one prompt."),
    ("token", ["a token", "tokens"],
     ["what a token is", "how long a token is"], ["What does token mean?", "What are tokens?"],
     "A token is a small piece of text, often a word or a part of a word. A language model reads and "
     "writes tokens, each with its own number.", "A token is a small piece of text."),
    ("prompt", ["a prompt", "the prompt"],
     ["what a prompt is"], ["What does prompt mean?", "What are prompts?"],
     "The prompt is the text that a model reads before it writes. In a chat it holds all messages so "
     "far.", "The prompt is the text the model reads first."),
    ("llm", ["a language model", "a large language model", "an LLM"],
     ["what a language model is", "how a language model works"],
     ["What does LLM mean?", "How does a language model work?", "What does a language model do?"],
     "A language model is a program that has learned to continue text. It reads some tokens, guesses "
     "the next one and goes on from there.", "It is a program that continues text."),
    ("attention", ["attention", "the attention layer"],
     ["what attention does"], ["What does attention do?", "How does attention work?"],
     "Attention lets each token look at the tokens before it. It compares a query with the keys of "
     "the old tokens and mixes their values.", "It lets a token look at earlier tokens."),
    ("safetensors", ["safetensors", "the weight file format"],
     ["which weight files dynd reads", "how dynd loads weights"],
     ["Which weight files can dynd read?", "How are weights loaded?"],
     "dynd reads safetensors files, in one piece or in several, and maps them into memory. Every size "
     "in them is checked before it is used.", "dynd reads safetensors files."),
    ("models", ["the supported models", "the model families"],
     ["which models dynd can serve", "which models work with dynd"],
     ["Which models can dynd run?", "Which models are supported?", "Can dynd run Llama?",
      "Can dynd run Qwen?", "Does dynd support Mistral?"],
     "dynd serves models of the Llama 3, Qwen2.5, Qwen3 and Mistral families. Give it a folder with "
     "config.json, tokenizer.json and safetensors files.",
     "The Llama 3, Qwen2.5, Qwen3 and Mistral families."),
    ("dummy", ["dummy weights", "the dummy load format"],
     ["how to run dynd without weights", "what load-format dummy does"],
     ["Can dynd run without weights?", "What does --load-format dummy do?"],
     "With --load-format dummy dynd makes random weights from a seed. It needs no weight file, so a "
     "model of any shape can be measured.", "It makes random weights from a seed."),
    ("cpu", ["the CPU backend", "dynd on a CPU"],
     ["whether dynd needs a GPU", "if dynd runs without a GPU"],
     ["Do I need a GPU?", "Does dynd need a GPU?", "Can dynd run on a laptop?",
      "Does dynd run on a CPU?"],
     "No, dynd also runs on a CPU. It is the same binary with another backend, so a laptop can run "
     "the real daemon.", "No, dynd also runs on a CPU."),
    ("gpu", ["the GPU support", "dynd on a GPU"],
     ["which GPUs dynd uses"], ["Which GPUs does dynd support?", "Can dynd use my GPU?"],
     "dynd uses NVIDIA GPUs through CUDA. Each worker is pinned to its own set of GPUs, or to its "
     "share of one GPU.", "dynd uses NVIDIA GPUs."),
    ("kubernetes", ["dynd on Kubernetes", "the Kubernetes deployment"],
     ["how to run dynd on Kubernetes", "whether dynd runs on Kubernetes"],
     ["Does dynd run on Kubernetes?", "Can I use Kubernetes?", "How do I deploy dynd?"],
     "The folder deploy holds the manifests. The router is a Deployment and the workers are "
     "StatefulSets, and docs/KUBERNETES.md explains them.",
     "Yes, the manifests are in the folder deploy."),
    ("docker", ["the container image", "the Dockerfile"],
     ["how to run dynd in a container"], ["Is there a Dockerfile?", "Can I run dynd in Docker?"],
     "The folder deploy has a Dockerfile with a CPU and a CUDA variant. The image runs without root "
     "rights.", "Yes, the Dockerfile is in the folder deploy."),
    ("ttft", ["TTFT", "the time to first token"],
     ["what TTFT means"], ["What does TTFT mean?", "What does TTFT stand for?"],
     "TTFT is the time to first token. It runs from the moment the request is sent until the first "
     "token of the answer arrives.", "It is the time to first token."),
    ("itl", ["ITL", "the inter-token latency", "TPOT"],
     ["what ITL means", "what TPOT means"], ["What does ITL mean?", "What does TPOT mean?"],
     "ITL is the inter-token latency, the time between two tokens of an answer. TPOT is its mean "
     "over one answer.", "It is the time between two tokens."),
    ("goodput", ["goodput"],
     ["what goodput means"], ["What does goodput mean?", "How is goodput measured?"],
     "Goodput counts only the requests that were answered within the promised times. It is the speed "
     "that matters to users.", "It counts the requests served in time."),
    ("slo", ["an SLO", "a service level objective"],
     ["what SLO means"], ["What does SLO mean?", "What does SLO stand for?"],
     "SLO stands for service level objective. It is a promised limit, for example for the time to "
     "first token.", "It is a promised limit on the service."),
    ("temperature", ["the temperature", "temperature"],
     ["what the temperature does"], ["What does temperature do?", "How do I set the temperature?"],
     "The temperature sets how freely the next token is chosen. At 0 the model always takes the most "
     "likely token, and higher values give more surprise.",
     "It sets how freely tokens are chosen."),
    ("top_p", ["top_p", "top-p sampling"],
     ["what top_p does"], ["What does top_p do?", "What does top-p mean?"],
     "With top_p the next token comes from the smallest set of likely tokens whose chances add up to "
     "p. Unlikely tokens are left out.", "It leaves out unlikely tokens."),
    ("top_k", ["top_k", "top-k sampling"],
     ["what top_k does"], ["What does top_k do?", "What does top-k mean?"],
     "With top_k the next token comes from the k most likely tokens. All other tokens are left out.",
     "It keeps the k most likely tokens."),
    ("greedy", ["greedy decoding", "greedy sampling"],
     ["what greedy means"], ["What does greedy mean?", "How do I get greedy output?"],
     "Greedy decoding always takes the most likely token. Set temperature to 0, and the same prompt "
     "gives the same answer every time.", "It always takes the most likely token."),
    ("seed", ["the seed", "a seed"],
     ["what the seed does"], ["What does seed do?", "How do I get the same answer twice?"],
     "The seed fixes the random choices of an answer. Each choice depends on the seed and the "
     "position alone, so another worker can go on in the same way.",
     "It fixes the random choices."),
    ("stop", ["a stop string", "stop strings"],
     ["what stop strings do"], ["What does stop do?", "How do I stop at a word?"],
     "A stop string ends the answer when it appears. The string itself is not sent to the client.",
     "It ends the answer when it appears."),
    ("max_tokens", ["max_tokens", "the token limit"],
     ["what max_tokens does", "how to limit the length of an answer"],
     ["What does max_tokens do?", "How do I get a shorter answer?"],
     "max_tokens limits how many tokens the answer may have. When the limit is reached, the finish "
     "reason is length.", "It limits the length of the answer."),
    ("n", ["the field n"],
     ["how to get several answers"], ["What does n do?", "Can I get two answers at once?"],
     "The field n asks for several answers to one prompt. They share the KV blocks of the prompt, "
     "and each has its own random choices.", "It asks for several answers."),
    ("graphs", ["CUDA graphs", "a CUDA graph"],
     ["why dynd uses CUDA graphs"], ["What does a CUDA graph do?", "Does dynd use CUDA graphs?"],
     "A CUDA graph records the kernels of one decode step and starts them all with one call. That "
     "keeps the CPU out of the way.", "It starts a whole step with one call."),
    ("tp", ["tensor parallelism", "TP"],
     ["how dynd uses several GPUs for one model"],
     ["Does dynd support tensor parallelism?", "Can a model use several GPUs?"],
     "Tensor parallelism splits each layer over several GPUs. In dynd its ranks are threads of one "
     "worker process.", "It splits each layer over several GPUs."),
    ("lib", ["libdynd-kv", "the KV library"],
     ["what libdynd-kv does"], ["What does libdynd-kv do?", "Can I use the KV transfer alone?"],
     "libdynd-kv is the KV transfer of dynd as a C library. Other programs can use it without the "
     "daemon.", "It is the KV transfer as a C library."),
    ("docs", ["the documentation", "the dynd docs"],
     ["where the documentation is", "where to read about the code"],
     ["Where is the documentation?", "Where can I read more?", "How do I learn more about dynd?"],
     "Start with the README and then read docs/ARCHITECTURE.md, which follows one request through "
     "the code. All options are in docs/CONFIG.md.", "Read the README and the folder docs."),
    ("systems", ["the supported systems", "the operating system for dynd"],
     ["on which systems dynd runs"], ["Does dynd run on Linux?", "Which systems are supported?",
                                      "Does dynd run on Debian?"],
     "dynd runs on Linux. The quickstart script knows Debian 12 and Ubuntu 24.04, with and without a "
     "GPU.", "dynd runs on Linux."),
    ("difference", ["the difference between prefill and decode", "prefill and decode"],
     ["how prefill and decode differ"],
     ["Prefill vs decode?", "Prefill or decode?", "What are prefill and decode?",
      "How is prefill different from decode?", "Compare prefill and decode."],
     "Prefill reads the whole prompt at once and keeps the arithmetic units busy. Decode writes one "
     "token at a time and waits for memory.", "Prefill reads the prompt, decode writes the answer."),
    ("peers", ["the difference between dynd and other servers"],
     ["how dynd compares with other servers", "whether dynd is better than vLLM"],
     ["Is dynd better than vLLM?", "Is dynd faster than vLLM?", "Is dynd better than SGLang?",
      "Is dynd better than llama.cpp?", "How does dynd compare with vLLM?", "Why not vLLM?",
      "Why should I use dynd?", "Is dynd the best?"],
     "I cannot judge other servers. dynd is small, written in C and needs no Python, and dynd-bench "
     "measures it and others in the same way.", "Measure it with dynd-bench."),
    ("authors", ["the authors of dynd", "the author of dynd"],
     ["who wrote dynd", "who made dynd"],
     ["Who wrote dynd?", "Who made dynd?", "Who develops dynd?", "Who built dynd?"],
     "dynd was written by its contributors. The history of the repository names them.",
     "Its contributors wrote it."),
    ("why_c", ["the reason for C"],
     ["why dynd is written in C", "why dynd uses C"],
     ["Why is dynd written in C?", "Why C?", "Why not Python?", "Why not Rust?", "Why does dynd use C?"],
     "C keeps dynd small and close to the machine. One binary without a runtime starts in seconds and "
     "is easy to read and to measure.", "C keeps dynd small and fast to start."),
    ("rdma", ["RDMA", "remote direct memory access"],
     ["what RDMA means"], ["What does RDMA mean?", "Does dynd use RDMA?", "What does RDMA stand for?"],
     "RDMA is remote direct memory access: a network card writes into the memory of another machine "
     "without its CPU. dynd uses it through UCX.", "It writes into the memory of another machine."),
    ("gpu_word", ["a GPU", "GPU", "a graphics card"],
     ["what a GPU is"], ["What does GPU mean?", "What does GPU stand for?", "Why use a GPU?"],
     "A GPU is a processor with many small cores and fast memory. It does the arithmetic of a language "
     "model much faster than a CPU.", "A GPU is a processor with many small cores."),
    ("daemon", ["a daemon"],
     ["what a daemon is"], ["What does daemon mean?", "Is dynd a daemon?"],
     "A daemon is a program that runs in the background and serves requests. dynd is a daemon for "
     "language models.", "It is a program that runs in the background."),
    ("users", ["the users of dynd"],
     ["who uses dynd", "for whom dynd is made"], ["Who is dynd for?", "Who uses dynd?"],
     "dynd is for people who run language models on their own machines, from one laptop to many GPU "
     "nodes, and for engineers who like to read C.", "For people who serve models themselves."),
    ("tiny", ["dynd-tiny", "the model in the box", "the shipped model"],
     ["which model is in the box", "how big this model is"],
     ["How big is dynd-tiny?", "How many parameters do you have?", "Which model is this?",
      "How large are you?"],
     "dynd-tiny is the small model that comes with dynd. It has about six million parameters and "
     "knows only short stories, small sums and a few facts about dynd.",
     "dynd-tiny is the small model in the box."),
    ("cores", ["the router core", "the worker core", "a pure core"],
     ["why the cores are pure"], ["Why are the cores pure?", "What does pure core mean?"],
     "The cores are state machines without input and output. Events and the time go in and actions "
     "come out, so the simulator can run them exactly as they are shipped.",
     "They are state machines without I/O."),
]
