"""Lesson 05, troubleshooting (문제 해결): see what a training run does with its memory, and find what is wrong with it.

Memory
    tracking          what is alive while code runs: how many bytes, of which kind, made by which line
    tensor_parts      the tensors inside a structure, and the dense ones inside a sparse or nested tensor
    simulated_device  a small device that runs out of memory, and tensors without numbers inside
    gpu_device        the same calls on a GPU, answered by its allocator
    allocator         what PyTorch's cache keeps between tensors and a GPU
    formula           bytes before anything runs
    batch_size        the largest batch that fits
    step_study        what each remedy saves, on the networks of `large_models`
    offload           where bytes lie when saved tensors are moved to the host
    rank_memory       bytes of a data-parallel step on each rank
    nvml              what the GPUs of this machine are doing, as their driver says

Leaks
    leaks             what grows from step to step, and the line that keeps it alive
    holders           who refers to a tensor, up to a variable
    host_memory       how much memory of the host this process holds, tensors or not
    autograd_graph    the graph behind live tensors, and the memory that it keeps

Numbers that are none
    probes            the first layer and step with a NaN or an infinity
    own_hooks         hooks that a copy of the model does not have
    nan_verdict       who made it: the judgment on what the probe has recorded
    overflow          what a small format makes of the numbers of a step

Silent bugs
    invariants        SanityProbe: which rules of a healthy run the first steps of a loop break
    training_watch    the recorder of one model's passes, losses and steps, told by `torch_calls` of what has no hook
    training_records  what it writes down
    watcher           what its parts have in common; they are:
    surroundings      what happens between the steps: modes, states, epochs
    usage             how PyTorch is used: rarer losses, derivatives in the loss, layers made on the way
    sequence_watch    how sequences are treated: what attention sums and leaves out, which steps are read
    chance_watch      what is drawn: noise, actions and their log-probabilities
    target_watch      where targets come from: noise that the model was not shown, labels that were interpolated
    answers_watch     what a loop compares the model's answers with when it counts the right ones
    stored_watch      what a loop writes in place into its stored samples, and meets again
    teacher_watch     networks that put out targets, and whether they are in training mode
    beside_watch      what stands beside the model: an average of its weights, a replica, an adversary
    makers            which operation made the numbers that a loss gets
    watched_run       the recorder with what the rules ask of it, and what they say. The rules are in
                      `training_invariants`, `loss_invariants`, `sequence_invariants`, `schedule_invariants`,
                      `program_invariants`, `data_invariants`, `image_invariants`, `output_invariants`,
                      `usage_invariants`, `chance_invariants`, `beside_invariants`, `answers_invariants`
    training_step     a smaller recorder, of every model's passes and steps, for the clinic's judges
    silent_bugs       one healthy training, and for each bug the one change that spoils it

Processes
    stacks            where ranks and workers stand when they hang

`clinic/` holds broken programs to repair, `checks/` the checks of the exercises.
Pictures: `X_picture` beside the `X` that it draws.
"""

LESSON = 5
