import sys

from snn_mnist.cli import main

sys.exit(main())
