"""What may be skipped, and why that is accepted. A test that is skipped for any other reason fails a strict run.

`scripts/test.sh -strict` and `CI=true bash scripts/test.sh` are strict.
"""

ACCEPTED = {  # start of the reason -> why a check without these tests still counts
    "no CUDA device here": "a GPU is rare; the same kernels run on the host, and scripts/test_gpu.sh runs them on one",
    "no libnvrtc": "comes with torch's CUDA wheels only; the kernels are compiled for the host as well",
    "torch can use the GPU here": "a case of machines without one",
    "a CUDA device is here": "a case of machines without one",
    "a driver is here": "a case of machines without one",
    "SNN_MNIST_SPIKINGJELLY_PYTHON names no Python with SpikingJelly": "it needs an environment of its own",
    "norse is not installed": "another library, compared by scripts/compare_libraries.py where it is",
    "snntorch is not installed": "as above",
    "spikingjelly is not installed": "as above",
    "torch.compile of an older torch": "up to 2.11 it finds no constants of the surrogates; nets run uncompiled there",
    "only real MNIST": "its images themselves are what is tested",
    "names of x86 processors": "another architecture",
    "no PostgreSQL server here": "the same study on an SQLite file runs; CI installs the server",
    "one core": "needs two threads",
    "no /dev/full here": "Linux only",
    "needs Linux's /proc": "Linux only",
    "signals ": "POSIX only",
    "terminals and locales of POSIX": "POSIX only",
    "limits, mounts and users of POSIX": "POSIX only",
    "devices and pipes of POSIX": "POSIX only",
    "no flock here": "the script then waits for nobody",
}
