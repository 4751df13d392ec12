"""---
title: Results
description: What was measured on the shipped models, with intervals
repo-actions: false
---"""
from rlgen._site import front_page

print(front_page('Results'))
